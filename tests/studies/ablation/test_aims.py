"""What the ablation study was to show, from tables made by hand."""

import pandas as pd

from analysis.ablation.aims import quick, unbeaten, vanishing
from tests.studies.ablation.tables import HEADS, table


def test_settings_of_one_seed_are_named_where_they_do_not_count(vanilla) -> None:
    handover = {**HEADS, "schedule": "ratio-each"}
    runs = table(
        vanilla,
        {"val_accuracy": 0.9},
        {"depth": 18, "seed": 0, "val_accuracy": 0.1, "test_accuracy": 0.1},
        {"depth": 18, "seed": 1, "val_accuracy": 0.1, "test_accuracy": 0.2},
        {"depth": 18, "seed": 0, "test_accuracy": 0.8, **handover},
        {"depth": 18, "seed": 1, "test_accuracy": 0.9, **handover},
        {"depth": 30, "val_accuracy": 0.1},
        {"depth": 30, **handover},
    )
    gradients = pd.DataFrame(
        {"run": run, "epoch": epoch, "place": place, "weight_grad_norm": 1.0, "coherence": 0.01}
        for run in runs["run"]
        for epoch in (0, 2)
        for place in ("1", "last")
    )
    said = vanishing({"runs": runs, "gradients": gradients}, "handover")
    assert said.endswith(
        "**1 of 1 settings**. Not counted, as of one seed only: digits plain 30 atan."
    )


def test_a_schedule_is_held_against_the_best_fixed_one(vanilla) -> None:
    runs = table(
        vanilla,
        {"val_accuracy": 0.7, **HEADS, "schedule": "ratio-each"},
        {"val_accuracy": 0.6, **HEADS, "schedule": "constant"},
        {"val_accuracy": 0.72, **HEADS},
        {"val_accuracy": 0.7, "depth": 12, **HEADS, "schedule": "ratio-each"},
        {"val_accuracy": 0.7, "depth": 12, **HEADS},
    )
    said = unbeaten({"runs": runs}, "handover")
    assert "**1 of 2 settings**. Not so: digits plain 6 atan (2.0)." in said


def test_time_does_not_count_where_vanilla_hardly_learns(vanilla) -> None:
    runs = table(
        vanilla,
        {"depth": 18, "val_accuracy": 0.6},
        {"depth": 18, **HEADS},
        {"depth": 30, "val_accuracy": 0.1},
        {"depth": 30, **HEADS},
    )
    history = pd.DataFrame(
        {"run": run, "seconds": 4.0, "val_accuracy": 0.7}
        for run in runs.loc[runs["method"] == "hold-linear", "run"]
    )
    said = quick({"runs": runs, "history": history}, "hold-linear")
    assert said.endswith(
        "**1 of 1 settings**. Not counted, as vanilla hardly learns: digits plain 30 atan."
    )
