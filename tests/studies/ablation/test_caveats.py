"""Rates not tried, seeds added later, and ranges, from tables made by hand."""

import pytest

from analysis.ablation.caveats import (
    added_seeds_section,
    place_of_best,
    rates_sentence,
    spikes_sentence,
    with_rate,
)
from tests.studies.ablation.tables import HEADS, table

HANDOVER = {**HEADS, "schedule": "ratio-each"}


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ({0.1: 0.5}, "only"),
        ({0.03: 0.4, 0.1: 0.5}, "highest"),
        ({0.1: 0.5, 0.3: 0.4}, "lowest"),
        ({0.03: 0.4, 0.1: 0.5, 0.3: 0.4}, "inside"),
    ],
)
def test_where_the_best_rate_is(vanilla, accuracies, expected) -> None:
    runs = table(vanilla, *({"lr": lr, "val_accuracy": each} for lr, each in accuracies.items()))
    assert place_of_best(runs) == {"digits plain 6 atan": expected}
    assert ("tried" in with_rate(0.1, expected)) == (expected != "inside")


def test_settings_whose_rate_is_not_bracketed_are_named(vanilla) -> None:
    inside = [{"lr": lr, "val_accuracy": 0.9 if lr == 0.1 else 0.1} for lr in (0.03, 0.1, 0.3)]
    edge = [{"depth": 12, "lr": lr, "val_accuracy": lr} for lr in (0.1, 0.3)]
    said = rates_sentence(table(vanilla, *inside, *edge, {"depth": 18}))
    assert "in 1 of 3 settings" in said
    assert "One rate only was run in 1 (digits plain 18 atan);" in said
    assert "the highest of those run in 1 (digits plain 12 atan) and the lowest in 0." in said


def test_intervals_before_seeds_were_added_are_given(vanilla) -> None:
    # Wide with three seeds, narrow with eight.
    base = [{"seed": i, "test_accuracy": 0.1 * (i < 3) * i} for i in range(8)]
    own = [{**HANDOVER, "seed": i, "test_accuracy": 0.2} for i in range(8)]
    fashion = [{**row, "data": "fashion"} for row in (*base, *own)]
    planned = [{**row, "data": "nmnist", "T": 4} for row in (*base[:3], *own[:3])]
    said = added_seeds_section(table(vanilla, *base, *own, *fashion, *planned))
    assert "| fashion plain 6 atan | +10.0 [-14.8, +34.8] | +16.2 [+10.0, +22.5] |" in said
    assert "in 0 of these 1 settings, with all in 1" in said and "digits" not in said
    assert added_seeds_section(table(vanilla, *base, *own)) == "None were added.\n"


def test_spikes_are_compared_with_both_vanillas(vanilla) -> None:
    runs = table(
        vanilla,
        {"spikes": 100.0, "val_accuracy": 0.4},
        {"spikes": 200.0, "val_accuracy": 0.6, "lr": 0.3},
        {"spikes": 150.0, **HANDOVER},
    )
    said = spikes_sentence(runs)
    assert "+50 to +50 % against vanilla at the same rate" in said
    assert "-25 to -25 % against vanilla at the best" in said
