"""The figure of the study of operations, from its table alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.common.figures import Tables, legend_above, save_all, tidy
from analysis.synops.report import against_vanilla

__all__ = ["draw_all"]

DPI = 150
COLUMNS = 3
# Vanilla is grey and heads on spikes blue, as everywhere.
COLOURS = {"none": "0.35", "spikes": "#0072B2", "currents": "#D55E00"}
NAMES = {"none": "vanilla", "spikes": "heads on spikes", "currents": "heads on currents"}
SIZES = {0: 60, 1: 25, 2: 60, 4: 110}


def draw_all(tables: Tables, folder: Path) -> dict[str, str]:
    """Draw every figure there are rows for; file name → what it shows."""
    return save_all((figure_pareto,), tables, folder, DPI)


def figure_pareto(tables: Tables) -> Figure | None:
    """Accuracy against synaptic operations, relative to vanilla at its best learning rate (grey,
    at the cross): up is more accurate, left is cheaper. Hollow: with the price on spikes. Larger:
    heads over more parts of the map."""
    table = against_vanilla(tables["runs"])
    if table.empty:
        return None
    compared = table.groupby("setting")["method"].transform("count") > 1
    table = table[compared] if compared.any() else table
    settings = list(dict.fromkeys(table["setting"]))
    rows = -(-len(settings) // COLUMNS)
    figure, axes = plt.subplots(
        rows, COLUMNS, figsize=(8.0, 2.6 * rows), layout="constrained", squeeze=False
    )
    for ax, name in zip(axes.flat, settings, strict=False):
        draw_setting(ax, table[table["setting"] == name])
        ax.set_title(name, fontsize="medium", loc="left")
    for ax in list(axes.flat)[len(settings) :]:
        ax.set_visible(False)
    figure.supxlabel("synaptic operations, vanilla = 1", fontsize="medium")
    figure.supylabel("test accuracy, points above vanilla", fontsize="medium")
    legend_above(figure, axes.flat[0], columns=4)
    return figure


def draw_setting(ax: Axes, rows: pd.DataFrame) -> None:
    tidy(ax)
    ax.axhline(0, color="0.6", lw=1)
    ax.axvline(1, color="0.6", lw=1)
    row: Any
    for row in rows.itertuples():
        colour, hollow = COLOURS[row.reads], row.factor > 0
        ax.scatter(
            row.synops,
            row.points,
            s=SIZES[row.grid],
            facecolor="white" if hollow else colour,
            edgecolor=colour,
            linewidth=1.8,
            zorder=3,
        )
    for reads, name in NAMES.items():
        ax.scatter([], [], color=COLOURS[reads], label=name)
    ax.scatter([], [], facecolor="white", edgecolor="0.35", linewidth=1.8, label="with the price")
