"""The study of the first layer's gradients, as a command and part by part."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from analysis.gradients.__main__ import main
from analysis.gradients.figures import root_mean_square
from analysis.gradients.plan import Run, plan, quick_plan
from analysis.gradients.report import measures, verdict

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "analysis" / "gradients" / "results"
COMMAND = [sys.executable, "-m", "analysis.gradients", "--quick"]


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    main(["--quick", "--out", str(folder)])
    return folder


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    return {name: pd.read_csv(folder / f"{name}.csv") for name in ("bins", "runs")}


def test_tables_are_tidy_and_hold_every_gradient(quick) -> None:
    found = tables(quick)
    bins, runs = found["bins"], found["runs"]
    assert list(runs["run"]) == sorted(run.key for run in quick_plan())
    for row in runs.to_dict("records"):
        assert Run.of_row(row).key == row["run"]
    assert not bins.duplicated(["run", "step", "low", "high"]).any()
    assert set(bins["layer"]) == {"stem.0"} and set(bins["depth"]) == {1}
    counts = bins.groupby(["run", "step"])["count"].sum()
    assert len(counts) == 8 and set(counts) == {2 * 2 * 3 * 9}  # batches, channels, weights of each


def test_both_methods_start_from_the_same_network(quick) -> None:
    found = measures(tables(quick)).set_index(["surrogate", "step", "method"])
    # Heads are new and small: they add to the gradient, and do not replace it.
    for surrogate in ("atan", "rect"):
        before = found.loc[surrogate].loc[0]["rms"]
        assert before["eq6"] == pytest.approx(before["vanilla"], rel=0.5)
        assert before["eq6"] != before["vanilla"]


def test_page_and_figure_belong_together(quick) -> None:
    page = (quick / "RESULTS.md").read_text()
    assert "(first_layer.png)" in page and (quick / "first_layer.png").stat().st_size > 10_000
    assert "- Before training, ATan: **" in page and "- After 2 steps, rectangle: **" in page
    assert "Unfinished" not in page and "nan" not in page


@pytest.mark.slow
def test_a_killed_study_goes_on_and_gives_the_same(quick, tmp_path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--out", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "runs.csv").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(pd.read_csv(tmp_path / "runs.csv"))
    command = [*COMMAND, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert f"{kept} finished before, {4 - kept} to do" in done.stdout, done.stderr
    pd.testing.assert_frame_equal(tables(tmp_path)["bins"], tables(quick)["bins"])


def test_what_is_finished_is_not_run_again(quick, tmp_path, capsys) -> None:
    folder = tmp_path / "study"
    shutil.copytree(quick, folder)
    main(["--quick", "--out", str(folder)])
    assert "4 finished before, 0 to do" in capsys.readouterr().out
    for name in ("runs.csv", "bins.csv", "RESULTS.md"):
        assert (folder / name).read_bytes() == (quick / name).read_bytes()


def test_absent_data_is_skipped_with_a_hint(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("SJ_SHORTCUT_DATA", str(tmp_path))
    main(["--out", str(tmp_path)])
    said = capsys.readouterr()
    assert "cifar10 is skipped: there is no" in said.err and "0 runs: " in said.out
    assert not (tmp_path / "RESULTS.md").exists()


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


def test_the_plan_is_the_papers_network_and_time_steps() -> None:
    runs = plan()
    assert {(run.data, run.depth, run.T) for run in runs} == {("cifar10", 34, 4)}
    assert [run.method for run in runs[:2]] == ["vanilla", "eq6"]  # the claim comes first
    assert len({run.key for run in runs}) == len(runs) == 4


def test_root_mean_square_is_that_of_the_gradients() -> None:
    torch.manual_seed(0)
    size = 10.0 ** -torch.arange(1, 4)
    bins = pd.DataFrame({"low": 0.96 * size, "high": 1.04 * size, "count": [1, 2, 3]})
    expected = ((1e-2 + 2e-4 + 3e-6) / 6) ** 0.5
    assert root_mean_square(bins) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (3.0, "as in theirs, 3.0 times as wide with shortcuts"),
        (1.1, "not as in theirs, nearly the same with and without (1.10 times as wide)"),
        (0.5, "the other way round, 2.0 times as wide without shortcuts"),
    ],
)
def test_verdict(times, said) -> None:
    assert verdict(times) == said


@pytest.mark.skipif(not (RESULTS / "runs.csv").exists(), reason="no committed results here")
def test_committed_results_are_whole() -> None:
    page = (RESULTS / "RESULTS.md").read_text()
    assert all(f"({path.name})" in page for path in RESULTS.glob("*.png"))
    found = tables(RESULTS)
    assert set(found["bins"]["run"]) == set(found["runs"]["run"])
    assert set(found["runs"]["run"]) <= {run.key for run in plan()}
    commits = found["runs"]["commit"]
    assert commits.notna().all() and not commits.str.contains("changes").any()
