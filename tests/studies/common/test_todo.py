"""Which runs of a plan are still to be done."""

from dataclasses import dataclass

import pandas as pd

from analysis.common.tables import Tables
from analysis.common.todo import missing_runs


@dataclass(frozen=True)
class Planned:
    data: str
    key: str


def test_finished_runs_and_runs_without_data_are_left_out(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("SJ_SHORTCUT_DATA", str(tmp_path / "nowhere"))
    tables = Tables(tmp_path, ("runs",), ["run"])
    tables.add({"runs": pd.DataFrame([{"run": "a", "accuracy": 0.5}])})
    runs = [Planned("digits", "a"), Planned("cifar10", "b"), Planned("digits", "c")]
    assert missing_runs(runs, tables) == [runs[2]]
    said = capsys.readouterr()
    assert said.out == "2 runs: 1 finished before, 1 to do\n"
    assert said.err.startswith("cifar10 is skipped: there is no ") and said.err.count("\n") == 1


def test_of_no_data_nothing_is_left(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SJ_SHORTCUT_DATA", str(tmp_path / "nowhere"))
    assert missing_runs([Planned("nmnist", "a")], Tables(tmp_path, ("runs",), ["run"])) == []
