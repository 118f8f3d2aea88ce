"""The page of the study of operations, and the table it stands on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.common.pages import markdown
from analysis.common.statistics import Difference, welch

__all__ = ["against_vanilla", "method", "setting", "write_page"]


def method(row: Any) -> str:
    """Short name of what a run was trained with."""
    parts = ["vanilla" if row["reads"] == "none" else f"heads on {row['reads']}"]
    if row["grid"]:
        parts.append(f"{row['grid']} x {row['grid']}")
    if row["factor"]:
        factor = float(row["factor"])
        parts.append("price" if factor == 1 else f"price at {factor:g}")
    return ", ".join(parts)


def setting(row: Any) -> str:
    """Short name of data and network."""
    data = {"nmnist": "N-MNIST", "cifar10": "CIFAR-10"}.get(row["data"], row["data"])
    surrogate = " (rectangle)" if row["surrogate"] == "rect" else ""
    return f"{data}, {row['net']} {row['depth']}{surrogate}"


def against_vanilla(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a setting and method: accuracy in points and operations, against tuned vanilla.

    Args:
        runs: The table of runs.

    Returns:
        ``setting``, ``method``, ``reads``, ``grid``, ``factor``, ``seeds``; ``accuracy`` in per
        cent; ``points`` above vanilla and ``low``, ``high`` of Welch's 95 % interval; ``synops``
        (vanilla is 1), ``silent`` and ``lowest_rate`` (means).
    """
    runs = runs.assign(
        setting=[setting(row) for _, row in runs.iterrows()],
        method=[method(row) for _, row in runs.iterrows()],
    )
    rows = []
    for _, own in runs.groupby([runs["setting"], runs["method"]], sort=False):
        same = runs[runs["setting"] == own["setting"].iloc[0]]
        vanilla = same[same["method"] == "vanilla"]
        if vanilla.empty:
            continue
        points = _points(own, vanilla)
        rows.append(
            {
                **own.iloc[0][["setting", "method", "reads", "grid", "factor"]].to_dict(),
                "seeds": len(own),
                "accuracy": 100 * own["test_accuracy"].mean(),
                "points": points.value,
                "low": points.low,
                "high": points.high,
                "synops": own["synops"].mean() / vanilla["synops"].mean(),
                "silent": own["silent"].mean(),
                "lowest_rate": own["lowest_rate"].mean(),
            }
        )
    return pd.DataFrame(rows)


def _points(own: pd.DataFrame, other: pd.DataFrame) -> Difference:
    return welch(100 * own["test_accuracy"], 100 * other["test_accuracy"])


def against_defaults(runs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """One row a setting and method with heads: points and operations against default heads."""
    names = [f"{setting(row)}|{method(row)}" for _, row in runs.iterrows()]
    by_name = dict(tuple(runs.groupby(pd.Series(names, index=runs.index))))
    rows = []
    row: Any
    for row in table[table["reads"] != "none"].itertuples():
        own = by_name[f"{row.setting}|{row.method}"]
        default = by_name.get(f"{row.setting}|heads on spikes, 2 x 2")
        if default is None or row.method == "heads on spikes, 2 x 2":
            continue
        points = _points(own, default)
        rows.append(
            {
                "setting": row.setting,
                "method": row.method,
                "points": points.value,
                "low": points.low,
                "high": points.high,
                "synops": own["synops"].mean() / default["synops"].mean(),
            }
        )
    return pd.DataFrame(rows)


def write_page(runs: pd.DataFrame, figures: Mapping[str, str], planned: int) -> str:
    """RESULTS.md, from the table of runs."""
    table = against_vanilla(runs)
    left = f"**Unfinished: {len(runs)} of {planned} planned runs are done.**\n\n"
    parts = [
        "# Where heads look, and what a price on spikes buys\n\n"
        "Written by `analysis/synops` from the tables beside it; do not edit. `python -m "
        "analysis.synops` goes\non with what is missing and draws this page anew, `--report` only "
        "draws.\n\n" + (left if len(runs) < planned else ""),
        *(f"![{name}]({name})\n\n*{text}*\n\n" for name, text in figures.items()),
        "Test accuracy and synaptic operations (SynOps) a sample, against vanilla at the best of "
        "its learning rates by validation;\nmeans over seeds, points with Welch's 95 % interval. "
        "SynOps are counted in eval mode, without heads, on 500 test\nsamples. A price leaves each "
        "layer the firing rate that it had untrained free (times the factor, where one is given).\n"
        "Heads on currents read what goes into the last spiking layer of their point, before its "
        "neurons.\n\n",
        *(
            _section(name, rows.sort_values("synops"))
            for name, rows in table.groupby("setting", sort=False)
        ),
        _defaults_section(against_defaults(runs, table)),
    ]
    return "".join(parts).rstrip() + "\n"


def _section(name: Any, rows: pd.DataFrame) -> str:
    shown = pd.DataFrame(
        {
            "": rows["method"],
            "seeds": rows["seeds"],
            "test, %": rows["accuracy"].map("{:.1f}".format),
            "points": [_interval(row) for row in rows.itertuples()],
            "SynOps": rows["synops"].map("{:.2f}".format),
            "silent neurons, %": (100 * rows["silent"]).map("{:.1f}".format),
            "lowest layer's rate": rows["lowest_rate"].map("{:.3f}".format),
        }
    )
    return f"## {name}\n\n{markdown(shown)}\n"


def _defaults_section(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    means = rows.groupby("method", sort=False).agg(
        settings=("setting", "count"), points=("points", "mean"), synops=("synops", "mean")
    )
    worse = rows[rows["high"] < 0].groupby("method")["setting"].count()
    better = rows[rows["low"] > 0].groupby("method")["setting"].count()
    shown = pd.DataFrame(
        {
            "": means.index,
            "settings": means["settings"],
            "points, mean": means["points"].map("{:+.1f}".format),
            "better in": better.reindex(means.index, fill_value=0),
            "worse in": worse.reindex(means.index, fill_value=0),
            "SynOps, mean": means["synops"].map("{:.2f}".format),
        }
    )
    return (
        "## Against default heads\n\nHeads on spikes, over 2 x 2 parts, without a price, are 0 "
        "points and 1. *Better* and *worse*: the\ninterval of a setting excludes 0.\n\n"
        f"{markdown(shown)}"
    )


def _interval(row: Any) -> str:
    if row.method == "vanilla":
        return "0"
    if math.isnan(row.low):
        return f"{row.points:+.1f} (one seed)"
    return f"{row.points:+.1f} ({row.low:+.1f} to {row.high:+.1f})"
