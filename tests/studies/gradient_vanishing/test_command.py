"""The study of vanishing gradients: what it runs, keeps, goes on with, and says."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis.gradient_vanishing.__main__ import main

ROOT = Path(__file__).resolve().parents[3]

RESULTS = ROOT / "analysis" / "gradient_vanishing" / "results"

TABLES = ("gradients.csv", "sources.csv", "history.csv", "runs.csv")


def study(*flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "analysis.gradient_vanishing", *flags]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    done = study("--quick", "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "4 runs: 0 finished before, 4 to do" in done.stdout
    assert "100%" in done.stderr  # the progress bar
    return folder


def test_tables_are_tidy(quick) -> None:
    runs, history, gradients, sources = (
        pd.read_csv(quick / f"{name}.csv") for name in ("runs", "history", "gradients", "sources")
    )
    keys = ["data", "net", "size", "surrogate", "method", "seed", "epochs"]
    assert not runs.duplicated(keys).any() and len(runs) == 4
    assert not history.duplicated([*keys, "epoch"]).any() and len(history) == 4
    assert not gradients.duplicated([*keys, "epoch", "layer"]).any()
    assert gradients.groupby(keys)["epoch"].unique().map(set).eq({0, 1}).all()
    assert gradients.groupby([*keys, "epoch"])["layer"].size().unique().tolist() == [6, 8]
    assert set(sources["method"]) == {"shortcuts"}
    by_layer = sources.groupby(["size", "layer"])["share"].sum()
    assert by_layer.between(0.99, 1.01).all()


def test_both_methods_start_from_the_same_weights(quick) -> None:
    gradients = pd.read_csv(quick / "gradients.csv").query("epoch == 0")
    rate = gradients.pivot(index=["size", "layer"], columns="method", values="firing_rate")
    last = gradients.query("layer == 'classifier'").groupby("size")["weight_grad_norm"]
    assert (rate["vanilla"].fillna(0) == rate["shortcuts"].fillna(0)).all()
    assert (last.nunique() == 1).all()


def test_page_and_figures_belong_together(quick) -> None:
    page = (quick / "RESULTS.md").read_text()
    figures = {path.name for path in quick.glob("*.png")}
    assert {"see_it.png", "flow.png", "depths.png", "accuracy.png", "sources.png"} <= figures
    assert all(f"({name})" in page for name in figures)
    assert "digits plain 8 ATan" in page
    assert "nan" not in page


def test_what_is_finished_is_not_run_again(quick, tmp_path, capsys) -> None:
    shutil.copytree(quick, tmp_path / "study")
    main(["--quick", "--out", str(tmp_path / "study")])
    assert "4 runs: 4 finished before, 0 to do" in capsys.readouterr().out
    for name in (*TABLES, "RESULTS.md"):
        assert (tmp_path / "study" / name).read_bytes() == (quick / name).read_bytes()


@pytest.mark.slow
def test_a_stopped_study_goes_on_and_gives_the_same(quick, tmp_path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(quick, folder)
    runs = pd.read_csv(folder / "runs.csv")
    runs.iloc[1:].to_csv(folder / "runs.csv", index=False)  # as if stopped before the last write
    (folder / "history.csv.part").write_text("half a li")
    done = study("--quick", "--out", folder)
    assert "4 runs: 3 finished before, 1 to do" in done.stdout, done.stderr
    for name in TABLES[:3]:
        assert (folder / name).read_bytes() == (quick / name).read_bytes()
    again = pd.read_csv(folder / "runs.csv").drop(columns="seconds")
    pd.testing.assert_frame_equal(again, runs.drop(columns="seconds"))


def test_absent_data_is_skipped_with_a_hint(quick, tmp_path, capsys, monkeypatch) -> None:
    shutil.copytree(quick, tmp_path / "study")
    monkeypatch.setenv("SJ_SHORTCUT_DATA", str(tmp_path))
    main(["--quick", "--data", "all", "--out", str(tmp_path / "study")])
    said = capsys.readouterr()
    for name in ("cifar10 is skipped: there is no", "nmnist is skipped"):
        assert name in said.err
    assert "SJ_SHORTCUT_DATA=/path/to/data" in said.err
    assert "4 runs: 4 finished before, 0 to do" in said.out
    main(["--data", "nmnist", "--out", str(tmp_path / "none")])
    assert "0 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quick"], "--quick needs --out FOLDER"),
        (["--depths", "7"], "--depths must be even numbers of at least 6"),
        (["--epochs", "0"], "must be at least 1"),
    ],
)
def test_bad_flags(flags, message, capsys) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(flags)
    assert exit_info.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.skipif(not (RESULTS / "RESULTS.md").exists(), reason="no committed results here")
def test_committed_results_are_small_and_whole() -> None:
    for path in RESULTS.iterdir():
        assert path.suffix in {".csv", ".png", ".md"} and path.stat().st_size < 500_000, path
    page = (RESULTS / "RESULTS.md").read_text()
    assert all(f"({path.name})" in page for path in RESULTS.glob("*.png"))
    runs = pd.read_csv(RESULTS / "runs.csv")
    assert set(runs["net"]) == {"plain", "resnet"}
    assert set(runs["surrogate"]) == {"atan", "sigmoid", "rect"}
    assert {6, 48} <= set(runs["size"])
