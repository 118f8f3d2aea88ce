"""Summed logits against summed losses, each with its own best λ₀, heads and places."""

from __future__ import annotations

import math

import pandas as pd

from analysis.ablation.statistics import at_best_rate
from analysis.common.pages import markdown
from analysis.common.statistics import Difference, welch

__all__ = ["SCHEDULE", "best_of_grid", "of_grid", "summed_section", "without_grid"]

SCHEDULE = "linear-by-step"  # what all runs of the grid have, and no others
PAPER = {"combine": "logits", "at": "stages", "head": "average", "start": 0.25}


def of_grid(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the grid."""
    return runs[runs["schedule"] == SCHEDULE]


def without_grid(runs: pd.DataFrame) -> pd.DataFrame:
    """All others: the grid's many methods are in a section of their own."""
    return runs[runs["schedule"] != SCHEDULE]


def best_of_grid(runs: pd.DataFrame, setting: str, combine: str) -> pd.DataFrame:
    """The runs of the method of the highest mean validation accuracy.

    Methods are compared on the seeds that all those tried have.
    """
    rows = of_grid(runs)
    rows = rows[(rows["setting"] == setting) & (rows["combine"] == combine)]
    tried = rows["method"].nunique()
    complete = rows.groupby("seed")["method"].transform("nunique") == tried
    means = rows[complete].groupby("method")["val_accuracy"].mean().sort_values(kind="stable")
    return rows[rows["method"] == means.index[-1]] if len(means) else rows.iloc[:0]


def summed_section(runs: pd.DataFrame, settings: int, methods: int) -> str:
    """One row a setting: the best of each way of adding up, and their difference.

    Args:
        runs: Labelled runs.
        settings: How many are planned.
        methods: How many methods of each way are planned in each.
    """
    grid = of_grid(runs)
    if grid.empty:
        return "Not run yet.\n"
    vanilla = at_best_rate(runs[~runs["longer"]], "vanilla")
    lines = []
    for setting, rows in grid.groupby("setting", sort=False):
        plain = vanilla[vanilla["setting"] == setting]["test_accuracy"]
        logits, losses = (best_of_grid(runs, str(setting), way) for way in ("logits", "loss"))
        paper = rows
        for column, value in PAPER.items():
            paper = paper[paper[column] == value]
        lines.append(
            {
                "setting": setting,
                "vanilla, best rate run": percent(plain),
                "as the paper": percent(paper["test_accuracy"]),
                "best logits": chosen(logits),
                "best losses": chosen(losses),
                "logits over losses": points(logits, losses),
                "methods tried": " + ".join(
                    f"{rows[rows['combine'] == way]['method'].nunique()}"
                    for way in ("logits", "loss")
                ),
            }
        )
    said = markdown(pd.DataFrame(lines))
    if len(lines) < settings or not all(
        line["methods tried"] == f"{methods} + {methods}" for line in lines
    ):
        said += (
            f"\nUnfinished: planned are {methods} + {methods} methods in each of {settings} "
            "settings. What is best of a part may not be best of all.\n"
        )
    return said


def percent(values: pd.Series) -> str:
    return f"{values.mean():.1%} ({len(values)})" if len(values) else ""


def chosen(rows: pd.DataFrame) -> str:
    """Test accuracy, and what the method differs in."""
    if rows.empty:
        return ""
    first = rows.iloc[0]
    where = f"λ₀ {first['start']:g}, {first['head']}, {first['at']}"
    return f"{percent(rows['test_accuracy'])} {where}"


def points(one: pd.DataFrame, other: pd.DataFrame) -> str:
    if one.empty or other.empty:
        return ""
    found = Difference(
        *(100 * each for each in welch(one["test_accuracy"], other["test_accuracy"]))
    )
    said = f"{found.value:+.1f}"
    return said if math.isnan(found.low) else f"{said} [{found.low:+.1f}, {found.high:+.1f}]"
