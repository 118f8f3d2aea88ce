"""Summed logits against summed losses, from tables made by hand."""

import pytest

from analysis.ablation.summed import best_of_grid, summed_section, without_grid
from tests.studies.ablation.tables import table

GRID = {"at": "stages", "head": "average", "schedule": "linear-by-step"}
SETTING = "digits plain 6 atan"


@pytest.fixture
def runs(vanilla):
    grid = [
        {**GRID, "combine": combine, "start": start, "seed": seed, **scores}
        for seed in (0, 1)
        for combine, start, scores in (
            ("logits", 0.25, {"val_accuracy": 0.5, "test_accuracy": 0.4 + seed / 100}),
            ("logits", 1.0, {"val_accuracy": 0.4, "test_accuracy": 0.9}),
            ("loss", 0.25, {"val_accuracy": 0.6, "test_accuracy": 0.5 + seed / 100}),
            ("loss", 1.0, {"val_accuracy": 0.7, "test_accuracy": 0.6 + seed / 100}),
        )
    ]
    # A seed of which only one method is finished does not decide.
    lone = {**GRID, "combine": "logits", "start": 1.0, "seed": 2, "val_accuracy": 1.0}
    return table(vanilla, {"test_accuracy": 0.3}, *grid, lone)


def test_each_way_has_its_own_best_by_validation(runs) -> None:
    assert set(best_of_grid(runs, SETTING, "logits")["start"]) == {0.25}
    assert set(best_of_grid(runs, SETTING, "loss")["start"]) == {1.0}


def test_the_section_says_what_was_best_and_what_is_missing(runs) -> None:
    said = summed_section(runs, 1, 2)
    assert "| digits plain 6 atan | 30.0% (1) | 40.5% (2) | 40.5% (2) λ₀ 0.25" in said
    assert "60.5% (2) λ₀ 1, average, stages | -20.0 [-23.0, -17.0] | 2 + 2 |" in said
    assert "Unfinished" not in said
    assert "Unfinished: planned are 16 + 16 methods in each of 5" in summed_section(runs, 5, 16)
    assert summed_section(without_grid(runs), 5, 16) == "Not run yet.\n"
