"""The page of the study of operations, and the table it stands on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.common.pages import markdown
from analysis.common.statistics import Difference, mean_of_differences, welch

__all__ = ["against_plain_heads", "against_vanilla", "method", "setting", "write_page"]

PLAIN = "heads on spikes, 2 x 2"
KEPT = 0.95  # of the accuracy of plain heads


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
    names = {"nmnist": "N-MNIST", "cifar10": "CIFAR-10", "fashion": "Fashion-MNIST"}
    data = names.get(row["data"], row["data"])
    nets = {"bare": "plain without norm", "stages4": "ResNet of four stages"}
    net = nets.get(row["net"], row["net"])
    surrogate = " (rectangle)" if row["surrogate"] == "rect" else ""
    return f"{data}, {net} {row['depth']}{surrogate}"


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


def against_plain_heads(runs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """One row a setting and method with heads: accuracies and operations against plain heads.

    Only of those with two seeds or more.

    Args:
        runs: The table of runs.
        table: What :func:`against_vanilla` makes of it.

    Returns:
        ``setting``, ``method``; ``own`` and ``plain`` (test accuracies of the seeds, in per cent);
        ``points``, ``low``, ``high`` as there; ``synops`` (plain heads are 1), ``to_vanilla`` (the
        same, vanilla is 1) and ``kept`` (share of their validation accuracy).
    """
    names = [f"{setting(row)}|{method(row)}" for _, row in runs.iterrows()]
    by_name = dict(tuple(runs.groupby(pd.Series(names, index=runs.index))))
    rows = []
    row: Any
    for row in table[table["reads"] != "none"].itertuples():
        own = by_name[f"{row.setting}|{row.method}"]
        plain = by_name.get(f"{row.setting}|{PLAIN}")
        if plain is None or min(len(own), len(plain)) < 2:
            continue
        points = _points(own, plain)
        rows.append(
            {
                "setting": row.setting,
                "method": row.method,
                "own": 100 * own["test_accuracy"],
                "plain": 100 * plain["test_accuracy"],
                "points": points.value,
                "low": points.low,
                "high": points.high,
                "synops": own["synops"].mean() / plain["synops"].mean(),
                "to_vanilla": row.synops,
                "kept": own["val_accuracy"].mean() / plain["val_accuracy"].mean(),
            }
        )
    return pd.DataFrame(rows)


def write_page(runs: pd.DataFrame, figures: Mapping[str, str], planned: int) -> str:
    """RESULTS.md, from the table of runs."""
    table = against_vanilla(runs)
    to_plain = against_plain_heads(runs, table)
    left = f"**Unfinished: {len(runs)} of {planned} planned runs are done.**\n\n"
    parts = [
        "# Where heads look, and what a price on spikes buys\n\n"
        "Written by `analysis/synops` from the tables beside it; do not edit. `python -m "
        "analysis.synops` goes\non with what is missing and draws this page anew, `--report` only "
        "draws.\n\n" + (left if len(runs) < planned else ""),
        *(f"![{name}]({name})\n\n*{text}*\n\n" for name, text in figures.items()),
        "Test accuracy and synaptic operations (SynOps) a sample, against vanilla at the best of "
        "its learning rates by validation\n(at 0.1 where the ablation has no such network); means "
        "over seeds, points with Welch's 95 % interval. "
        "SynOps are counted in eval mode, without heads, on 500 test\nsamples. A price leaves each "
        "layer the firing rate that it had untrained free (times the factor, where one is given).\n"
        "Heads on currents read what goes into the last spiking layer of their point, before its "
        "neurons.\n\n",
        *(
            _section(name, rows.sort_values("synops"))
            for name, rows in table.groupby("setting", sort=False)
        ),
        _plain_section(to_plain),
        _cheapest_section(to_plain),
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


def _plain_section(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    lines = []
    for name, own in rows.groupby("method", sort=False):
        points = mean_of_differences(list(zip(own["own"], own["plain"], strict=True)))
        certain = "" if math.isnan(points.low) else f" ({points.low:+.1f} to {points.high:+.1f})"
        lines.append(
            {
                "": name,
                "settings": len(own),
                "points, mean": "0" if name == PLAIN else f"{points.value:+.1f}{certain}",
                "better in": (own["low"] > 0).sum(),
                "worse in": (own["high"] < 0).sum(),
                "SynOps, mean": f"{own['synops'].mean():.2f}",
                "to vanilla's": f"{own['to_vanilla'].mean():.2f}",
            }
        )
    return (
        "## Against plain heads\n\nHeads on spikes, over 2 x 2 parts, without a price, are 0 "
        "points and 1. *Better* and *worse*: the\ninterval of a setting excludes 0. The interval "
        "of a mean is that of these settings; those of one seed are left out.\n\n"
        f"{markdown(pd.DataFrame(lines))}\n"
    )


def _cheapest_section(rows: pd.DataFrame) -> str:
    """Of the methods with heads, the fewest operations for 95 % of the accuracy of plain heads."""
    if rows.empty:
        return ""
    enough = rows[rows["kept"] >= KEPT]
    lines = [
        {
            "": row["setting"],
            "cheapest": row["method"],
            "SynOps": f"{row['to_vanilla']:.2f}",
            "test, %": f"{row['own'].mean():.1f}",
            "of plain heads, %": f"{row['plain'].mean():.1f}",
        }
        for _, row in enough.loc[
            enough.groupby("setting", sort=False)["to_vanilla"].idxmin()
        ].iterrows()
    ]
    return (
        f"## The cheapest that keep {KEPT:.0%} of the accuracy\n\nOf plain heads' validation "
        "accuracy; SynOps, vanilla's are 1.\n\n"
        f"{markdown(pd.DataFrame(lines))}"
    )


def _interval(row: Any) -> str:
    if row.method == "vanilla":
        return "0"
    if math.isnan(row.low):
        return f"{row.points:+.1f} (one seed)"
    return f"{row.points:+.1f} ({row.low:+.1f} to {row.high:+.1f})"
