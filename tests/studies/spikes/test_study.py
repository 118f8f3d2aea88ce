"""The first look at the price: as a command, and its numbers in docs/spikes.md."""

import re
from pathlib import Path

import pandas as pd
import pytest

from analysis.spikes.__main__ import KEYS, main, summary
from analysis.spikes.run import Run, plan

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "analysis" / "spikes" / "results"


def test_the_quick_command_goes_on_where_it_was_stopped(tmp_path, capsys) -> None:
    main(["--quick", "--out", str(tmp_path)])
    first = capsys.readouterr()
    runs = pd.read_csv(tmp_path / "runs.csv")
    assert len(runs) == 4 and (runs.epochs == 1).all() and (runs.synops > 0).all()
    layers = pd.read_csv(tmp_path / "layers.csv")
    assert (layers.groupby(KEYS).size() == 6).all()
    main(["--quick", "--out", str(tmp_path)])
    again = capsys.readouterr()
    assert again.err == "" and again.out == first.out
    with pytest.raises(SystemExit):
        main(["--quick"])


def test_all_planned_runs_are_committed() -> None:
    runs = pd.read_csv(RESULTS / "runs.csv")
    assert {Run(*row) for row in runs[KEYS].itertuples(index=False)} == set(plan())
    layers = pd.read_csv(RESULTS / "layers.csv")
    assert (layers.groupby(KEYS).size() == layers.groupby(KEYS)["depth"].first()).all()


def test_the_page_has_the_numbers_of_the_tables() -> None:
    text = (ROOT / "docs" / "spikes.md").read_text("utf-8")
    rows = re.findall(
        r"^\| (\d+) \| (yes|-) \| (yes|-) \| (.+) % \| (.+) % \| (.+) \|$", text, re.M
    )
    table = summary(pd.read_csv(RESULTS / "runs.csv"))
    assert len(rows) == len(table) == 8
    for row, (depth, heads, price, *numbers) in zip(table.itertuples(), rows, strict=True):
        assert (row.depth, row.heads, row.price) == (int(depth), heads == "yes", price == "yes")
        found = (100 * row.val_accuracy, 100 * row.test_accuracy, row.synops_to_vanilla)
        assert [float(n) for n in numbers] == pytest.approx(found, abs=0.06)
