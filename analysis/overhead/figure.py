"""The figure of the study of costs, from its table alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.overhead.cases import AGAIN, DEFAULT, EVERYWHERE

__all__ = ["draw"]

COLORS = {DEFAULT: "C0", EVERYWHERE: "C1", AGAIN: "0.6"}
PANELS = ("models", "time steps", "depth", "by hand")


def draw(table: pd.DataFrame, path: Path) -> None:
    """Ratios of models, over time steps, cost over the number of heads, and ways by hand."""
    figure, axes = plt.subplots(2, 2, figsize=(9.0, 6.4), layout="constrained")
    drawers = (_models, _time_steps, _depth, _by_hand)
    for ax, group, drawer in zip(axes.flat, PANELS, drawers, strict=True):
        rows = table[table["group"] == group]
        if len(rows):
            drawer(ax, rows)
            ax.spines[["top", "right"]].set_visible(False)
        else:
            ax.set_axis_off()
    figure.savefig(path, dpi=160)
    plt.close(figure)


def _models(ax: Axes, rows: pd.DataFrame) -> None:
    ways = [way for way in COLORS if (rows["way"] == way).any()]
    nets = list(dict.fromkeys(rows["net"]))
    for index, way in enumerate(ways):
        own = rows[rows["way"] == way].set_index("net").reindex(nets)
        x = np.arange(len(nets)) + (index - (len(ways) - 1) / 2) * 0.18
        _points(ax, x, own, color=COLORS[way], label=way, linestyle="none")
    for aim in rows["aim"].dropna().unique():
        ax.axhline(aim, color="0.8", linewidth=0.8, zorder=0)
    ax.axhline(1, color="0.4", linewidth=0.8, zorder=0)
    ax.set_xticks(range(len(nets)), [net.replace("_", "\n", 1) for net in nets], fontsize=7)
    ax.set_ylabel("time of a step, to bare")
    ax.set_title("Models (grey lines: aims)", fontsize=9)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.3 * (high - low))
    ax.legend(fontsize=7, frameon=False, loc="upper left", ncols=2)


def _time_steps(ax: Axes, rows: pd.DataFrame) -> None:
    own = rows[rows["way"] == DEFAULT].sort_values("T")
    _points(ax, own["T"], own, color="C0", label=DEFAULT, linestyle="-")
    ax.axhline(1, color="0.4", linewidth=0.8, zorder=0)
    ax.set_xscale("log", base=2)
    ax.set_xticks(own["T"], [str(T) for T in own["T"]])
    ax.set_xlabel("time steps T")
    ax.set_ylabel("time of a step, to bare")
    ax.set_title(f"{own['net'].iloc[0]}, batches of {own['batch'].iloc[0]}", fontsize=9)


def _depth(ax: Axes, rows: pd.DataFrame) -> None:
    own = rows[rows["heads"] > 0].sort_values("heads")
    low = own["extra_ms"] - own["extra_low"]
    high = own["extra_high"] - own["extra_ms"]
    ax.errorbar(own["heads"], own["extra_ms"], [low, high], fmt="o", markersize=4, color="C0")
    slope = float((own["heads"] * own["extra_ms"]).sum() / (own["heads"] ** 2).sum())
    ax.plot(own["heads"], slope * own["heads"], color="0.6", linewidth=1, zorder=0)
    ax.set_xticks(own["heads"], [f"{heads:.0f}" for heads in own["heads"]])
    ax.set_xlabel("heads, one for every 3 layers")
    ax.set_ylabel("added to a step, ms")
    ax.set_title(f"Plain networks; line: {slope:.2g} ms a head", fontsize=9)


def _by_hand(ax: Axes, rows: pd.DataFrame) -> None:
    rows = rows[(rows["reference"] == "bare") & (rows["way"] != "bare")]
    ways = list(dict.fromkeys(rows["way"]))
    y = np.arange(len(ways))[::-1]
    for index, (net, own) in enumerate(rows.groupby("net", sort=False)):
        own = own.set_index("way").reindex(ways)
        error = [own["ratio"] - own["ratio_low"], own["ratio_high"] - own["ratio"]]
        ax.errorbar(
            own["ratio"], y - 0.18 * index, xerr=error, fmt="o", markersize=4, label=str(net)
        )
    ax.axvline(1, color="0.4", linewidth=0.8, zorder=0)
    ax.set_yticks(y, [way.replace(" heads", "\nheads", 1) for way in ways], fontsize=7)
    ax.set_xlabel("time of a step, to bare")
    ax.set_title("Heads made by hand", fontsize=9)
    ax.legend(fontsize=7, frameon=False, loc="center right")


def _points(ax: Axes, x: Any, rows: pd.DataFrame, **style: Any) -> None:
    error = [rows["ratio"] - rows["ratio_low"], rows["ratio_high"] - rows["ratio"]]
    ax.errorbar(x, rows["ratio"], error, marker="o", markersize=4, **style)
