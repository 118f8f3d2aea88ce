"""The ablation study as a command: what it keeps, repeats, goes on with, and draws."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis.ablation.__main__ import main
from analysis.ablation.run import Run

ROOT = Path(__file__).resolve().parents[3]

RESULTS = ROOT / "analysis" / "ablation" / "results"

TABLES = ("history", "heads", "gradients", "firing", "runs")


def study(*flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "analysis.ablation", *flags]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    done = study("--quick", "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "8 runs: 0 finished before, 8 to do" in done.stdout
    assert "100%" in done.stderr  # the progress bar
    return folder


def read(folder: Path) -> dict[str, pd.DataFrame]:
    return {name: pd.read_csv(folder / f"{name}.csv") for name in TABLES}


def test_tables_are_tidy(quick) -> None:
    tables = read(quick)
    runs = tables["runs"]
    assert len(runs) == 8 and not runs["run"].duplicated().any()
    for name in ("history", "heads", "gradients", "firing"):
        assert set(tables[name]["run"]) <= set(runs["run"])
    assert not tables["history"].duplicated(["run", "epoch"]).any()
    assert not tables["heads"].duplicated(["run", "epoch", "head"]).any()
    assert not tables["gradients"].duplicated(["run", "epoch", "place"]).any()
    wrapped = runs.loc[runs["at"] != "none", "run"]
    assert set(tables["heads"]["run"]) == set(wrapped)
    assert runs["firing_rate"].between(0, 1, inclusive="neither").all()
    layers = tables["firing"].groupby("run")["layer"]
    assert layers.apply(list).map(lambda found: found == [1, 2, 3, 4, 5, 6]).all()


def test_methods_of_a_seed_start_from_the_same_weights(quick) -> None:
    tables = read(quick)
    first = tables["gradients"].query("epoch == 0 and place == 'last'")
    norms = first.merge(tables["runs"][["run", "seed", "at"]], on="run")
    by_seed = norms.groupby("seed")["weight_grad_norm"].nunique()
    assert by_seed.eq(1).all() and norms["weight_grad_norm"].nunique() == len(by_seed)
    firing = tables["firing"].merge(tables["runs"][["run", "seed"]], on="run")
    untrained = firing.groupby(["seed", "layer"])["untrained"]
    assert untrained.nunique().eq(1).all() and firing["untrained"].nunique() > len(by_seed)
    assert (firing["firing_rate"] - firing["untrained"]).abs().max() > 0.01


@pytest.mark.slow
def test_a_run_is_repeated_from_its_row(quick) -> None:
    run = read(quick)["runs"].query("schedule == 'ratio-each'")["run"].iloc[0]
    done = study("--out", quick, "--repeat", run)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        before, now = line.split(": ")[1].removesuffix(" now").split(" in the table, ")
        assert before == now, line
    assert "no run 'abc'" in study("--out", quick, "--repeat", "abc").stderr


def test_a_run_that_does_not_repeat_says_why(quick, monkeypatch, capsys) -> None:
    row = read(quick)["runs"].iloc[0]
    other = pd.DataFrame([{**row, "val_accuracy": row["val_accuracy"] + 0.1}])
    monkeypatch.setattr("analysis.ablation.__main__.train", lambda run: {"runs": other})
    main(["--out", str(quick), "--repeat", row["run"]])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4 and "Compare means over seeds" in said[-1]


@pytest.mark.slow
def test_a_stopped_study_goes_on_and_gives_the_same(quick, tmp_path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(quick, folder)
    whole = read(quick)
    whole["runs"].iloc[:-1].to_csv(folder / "runs.csv", index=False)
    assert "7 finished before, 1 to do" in study("--quick", "--out", folder).stdout
    for name, table in read(folder).items():
        times = ["seconds"] if "seconds" in table else []
        pd.testing.assert_frame_equal(
            table.drop(columns=times), whole[name].drop(columns=times), rtol=1e-3
        )


def test_hours_end_a_study_early(tmp_path) -> None:
    main(["--quick", "--out", str(tmp_path), "--hours", "0", "--workers", "1"])
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 1
    assert "1 runs are in the tables, 7 of those planned are not" in (
        tmp_path / "RESULTS.md"
    ).read_text().replace("\n", " ")


def test_page_and_figures_belong_together(quick) -> None:
    page = (quick / "RESULTS.md").read_text()
    figures = {path.name for path in quick.glob("*.png")}
    assert {"help.png", "gain.png", "rules.png", "time.png", "firing.png"} <= figures
    assert all(f"({name})" in page for name in figures)
    assert "All planned runs are finished." in page
    assert "| digits plain 6 atan |" in page


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quick"], "--quick needs --out FOLDER"),
        (["--workers", "0"], "--workers must be at least 1"),
    ],
)
def test_bad_flags(flags, message, capsys) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(flags)
    assert exit_info.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.skipif(not (RESULTS / "runs.csv").exists(), reason="no committed results here")
def test_committed_results_are_whole() -> None:
    page = (RESULTS / "RESULTS.md").read_text()
    assert all(f"({path.name})" in page for path in RESULTS.glob("*.png"))
    tables = read(RESULTS)
    for name in ("history", "heads", "gradients", "firing"):
        assert set(tables[name]["run"]) <= set(tables["runs"]["run"])
    for row in tables["runs"].to_dict("records"):
        assert Run.of_row(row).key == row["run"]
