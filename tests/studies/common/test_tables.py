"""Tables that grow run by run, and when runs are started."""

import pandas as pd
import pytest

from analysis.common import tables as module
from analysis.common.tables import Tables, execute


@pytest.fixture
def clock(monkeypatch):
    """Minutes that go by as runs say, not as the machine is fast."""
    passed = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: 60 * passed[0])
    return passed


def started(tmp_path, clock, todo, **options) -> list[str]:
    """The runs that were finished; each is its name and the minutes it takes."""

    def train(run):
        clock[0] += run[1]
        return {"runs": pd.DataFrame([{"run": run[0]}])}

    tables = Tables(tmp_path, ["runs"], ["run"])
    execute(todo, train, tables, 1, lambda run: run[1], lambda run, row: "", **options)
    return list(pd.read_csv(tmp_path / "runs.csv")["run"])


def test_no_run_starts_when_the_time_is_over(tmp_path, clock) -> None:
    todo = [("a", 30), ("b", 40), ("c", 1)]
    assert started(tmp_path, clock, todo, hours=1) == ["a", "b"]


def test_nor_one_that_would_not_be_finished_if_it_has_to_be(tmp_path, clock) -> None:
    todo = [("a", 30), ("b", 40), ("c", 1)]
    assert started(tmp_path, clock, todo, hours=1, whole=True) == ["a"]


def test_one_that_fits_is_started(tmp_path, clock) -> None:
    todo = [("a", 30), ("b", 29), ("c", 1)]
    assert started(tmp_path, clock, todo, hours=1, whole=True) == ["a", "b"]


def test_the_pace_of_several_processes_counts_each(clock) -> None:
    pace = module._Pace(workers=2)
    assert pace.seconds() == 0
    clock[0] += 5
    pace.finished += 10
    assert pace.seconds() == 60  # 10 units in 5 minutes by two: a minute each for one of them


def test_a_half_written_table_is_left_alone(tmp_path) -> None:
    pd.DataFrame([{"run": "a"}]).to_csv(tmp_path / "runs.csv", index=False)
    (tmp_path / "runs.csv.part").write_text("run\na\nb, but torn")
    tables = Tables(tmp_path, ["history", "runs"], ["run"])
    assert tables.finished() == {("a",)}
    tables.add({"history": pd.DataFrame({"run": ["b"]}), "runs": pd.DataFrame({"run": ["b"]})})
    assert list(pd.read_csv(tmp_path / "runs.csv")["run"]) == ["a", "b"]


def test_rows_of_an_unfinished_run_do_not_count(tmp_path) -> None:
    pd.DataFrame({"run": ["a", "b"]}).to_csv(tmp_path / "history.csv", index=False)
    pd.DataFrame({"run": ["a"]}).to_csv(tmp_path / "runs.csv", index=False)
    assert list(Tables(tmp_path, ["history", "runs"], ["run"])["history"]["run"]) == ["a"]


def test_two_commands_on_one_folder_lose_nothing_of_each_other(tmp_path) -> None:
    one, other = (Tables(tmp_path, ["layers", "runs"], ["run"]) for _ in range(2))
    for tables, name in ((one, "b"), (other, "a"), (one, "c")):
        rows = pd.DataFrame({"run": [name]})
        tables.add({"layers": rows, "runs": rows})
    for table in ("layers", "runs"):
        assert list(pd.read_csv(tmp_path / f"{table}.csv")["run"]) == ["a", "b", "c"]
    assert one.finished() == {("a",), ("b",), ("c",)}
