"""The study of the paper's claims as a command."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from analysis.paper.__main__ import main
from analysis.paper.plan import Run, plan

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "analysis" / "paper" / "results"
COMMAND = [sys.executable, "-m", "analysis.paper"]


def study(*flags: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    done = study("--quick", "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "6 runs: 0 finished before, 6 to do" in done.stdout
    return folder


def comparable(folder: Path, name: str = "runs") -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv").drop(columns="seconds")


def test_tables_are_tidy(quick) -> None:
    runs, history = (pd.read_csv(quick / f"{name}.csv") for name in ("runs", "history"))
    assert len(runs) == 6 and not runs["run"].duplicated().any()
    assert set(history["run"]) == set(runs["run"])
    assert not history.duplicated(["run", "epoch"]).any()
    for row in runs.to_dict("records"):
        assert Run.of_row(row).key == row["run"]


def test_page_and_figure_belong_together(quick) -> None:
    page = (quick / "RESULTS.md").read_text()
    assert "(claims.png)" in page and (quick / "claims.png").stat().st_size > 10_000
    assert "All planned runs are finished." in page
    assert "evolutionary (Eq. 10), 18 layers > vanilla, 18 layers" in page
    assert "nan" not in page


@pytest.mark.slow
def test_a_run_is_repeated_from_its_row(quick) -> None:
    runs = pd.read_csv(quick / "runs.csv")
    key = runs.loc[runs["method"] == "eq10", "run"].iloc[0]
    lines = study("--out", quick, "--repeat", key).stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        before, now = line.split(": ")[1].removesuffix(" now").split(" in the table, ")
        assert before == now, line
    with pytest.raises(SystemExit, match="no run 'abc'"):
        main(["--out", str(quick), "--repeat", "abc"])


def test_what_is_finished_is_not_run_again(quick, tmp_path, capsys) -> None:
    folder = tmp_path / "study"
    shutil.copytree(quick, folder)
    main(["--quick", "--out", str(folder)])
    assert "6 finished before, 0 to do" in capsys.readouterr().out
    for name in ("runs.csv", "history.csv", "RESULTS.md"):
        assert (folder / name).read_bytes() == (quick / name).read_bytes()


@pytest.mark.slow
def test_a_killed_study_goes_on_and_gives_the_same(quick, tmp_path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--quick", "--out", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "runs.csv").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(pd.read_csv(tmp_path / "runs.csv"))
    assert kept >= 1
    done = study("--quick", "--out", tmp_path)
    assert f"{kept} finished before, {6 - kept} to do" in done.stdout, done.stderr
    for name in ("runs", "history"):
        pd.testing.assert_frame_equal(comparable(tmp_path, name), comparable(quick, name))


@pytest.mark.slow
def test_full_width_has_tables_of_its_own(tmp_path) -> None:
    flags = ["--quick", "--device", "cpu", "--width", "4", "--minutes", "0", "--workers", "2"]
    done = study(*flags, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    row = pd.read_csv(tmp_path / "full_width_runs.csv").iloc[0]
    assert row["width"] == 4 and row["amp"] and row["device"].startswith("CPU")
    assert row["torch"] and row["commit"]
    assert not (tmp_path / "runs.csv").exists()
    assert "## At full width" in (tmp_path / "RESULTS.md").read_text()


def test_hours_end_a_study_early(tmp_path) -> None:
    assert study("--quick", "--out", tmp_path, "--hours", "0").returncode == 0
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 1
    assert "1 of 6 planned runs are done" in (tmp_path / "RESULTS.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quick"], "--quick needs --out FOLDER"),
        (["--device", "cpu", "--width", "4"], "--width needs --out FOLDER"),
        (["--minutes", "1"], "--minutes, --no-amp and --width go with --device"),
        (["--workers", "0"], "--workers and --width must be at least 1"),
    ],
)
def test_bad_flags(flags, message, capsys) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(flags)
    assert exit_info.value.code == 2 and message in capsys.readouterr().err


def test_absent_data_is_skipped_with_a_hint(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("SJ_SHORTCUT_DATA", str(tmp_path))
    main(["--out", str(tmp_path)])
    said = capsys.readouterr()
    assert "cifar10 is skipped: there is no" in said.err and "0 runs: " in said.out


@pytest.mark.skipif(not (RESULTS / "runs.csv").exists(), reason="no committed results here")
def test_committed_results_are_whole() -> None:
    page = (RESULTS / "RESULTS.md").read_text()
    assert all(f"({path.name})" in page for path in RESULTS.glob("*.png"))
    runs = pd.read_csv(RESULTS / "runs.csv")
    assert set(pd.read_csv(RESULTS / "history.csv")["run"]) == set(runs["run"])
    assert set(runs["run"]) <= {run.key for run in plan()}
    assert not runs["commit"].str.contains("changes").any() and runs["commit"].notna().all()
