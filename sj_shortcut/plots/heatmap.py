"""One column for every layer and epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patches import Patch, Rectangle

from sj_shortcut.gradients.columns import label_of, scale_of
from sj_shortcut.plots.axes import COLUMN, SMALL, TEXT, new_axes, set_style
from sj_shortcut.plots.frames import check, check_single, check_whole, layer_order, no_number
from sj_shortcut.plots.legends import add_legend
from sj_shortcut.plots.ticks import name_ticks, short

__all__ = ["plot_gradient_heatmap"]

_HATCHED: dict[str, Any] = {"facecolor": "0.9", "edgecolor": "0.6", "hatch": "/////"}


def plot_gradient_heatmap(
    frame: pd.DataFrame,
    *,
    column: str = "weight_grad_norm",
    x: str = "epoch",
    log: bool | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one column for every layer (downwards) and epoch (to the right) of a single run.

    Cells that are exactly 0 are white where the colours are logarithmic; cells without a finite
    number are hatched.

    Args:
        frame: As from a ``GradientRecorder`` whose ``step`` was given ``epoch=``.
        column: The column to colour by.
        x: The column that goes to the right, any that can be sorted. Its values stand at equal
            distances.
        log: Whether colours are logarithmic; default so for gradient norms and ratios of them.
        ax: Where to draw; default a new figure. The colour bar takes its room from it.

    Returns:
        The Axes of the map.

    Raises:
        TypeError: If ``frame`` is not a DataFrame.
        ValueError: If it is empty, lacks a column, has no number to colour, or has several numbers
            for one cell because it holds several runs.

    Example:
        >>> frame = pd.DataFrame({"layer": ["conv1", "fc"] * 2, "depth": [0, 1] * 2,
        ...                       "epoch": [0, 0, 1, 1], "firing_rate": [0.2, 0.1, 0.25, 0.2]})
        >>> ax = plot_gradient_heatmap(frame, column="firing_rate")
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['conv1', 'fc']
    """
    table = _cells(frame, column, x)
    log = scale_of(column, "linear") == "log" if log is None else log
    values = np.ma.masked_invalid(table.to_numpy())
    zeros = values.filled(1.0) <= 0 if log else np.zeros(values.shape, bool)
    ax = new_axes(ax, (COLUMN[0], 3.0))
    mesh = _colour_cells(ax, np.ma.masked_where(zeros, values), zeros, log)
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.03)
    bar.ax.tick_params(labelsize=SMALL)
    bar.set_label(label_of(column), fontsize=TEXT)
    set_style(ax, label_of(x), label_of("layer"))
    ax.set_ylim(values.shape[0] - 0.5, -0.5)
    name_ticks(ax.yaxis, dict(enumerate(map(short, table.index))))
    name_ticks(ax.xaxis, dict(enumerate(map(str, table.columns))), size=SMALL, upright=True)
    marks = []
    if zeros.any():
        marks.append(Patch(facecolor="white", edgecolor="0.6", lw=0.5, label="exactly 0"))
    if values.mask.any():
        marks.append(Patch(**_HATCHED, lw=0, label="none or NaN"))
    add_legend(ax, marks)
    return ax


def _cells(frame: pd.DataFrame, column: str, x: str) -> pd.DataFrame:
    """A row a layer, in order of depth, and a column for each value of ``x``."""
    check(frame, ["layer", "depth", x, column])
    check_whole(frame, (x, column))
    cells = frame.drop_duplicates(["layer", x, column])
    check_single(cells, ["layer", x], column)
    table = cells.pivot(index="layer", columns=x, values=column)
    table = table.reindex(layer_order(frame)).astype(float)
    if not np.isfinite(table.to_numpy()).any():
        raise no_number(column)
    return table


def _colour_cells(ax: Axes, shown: Any, zeros: Any, log: bool) -> QuadMesh:
    """Colour the cells, with those that are masked hatched, and zeros white."""
    # What is masked shows the background: hatched, with the zeros painted over.
    ax.patch.set(**_HATCHED)
    for row, place in np.argwhere(zeros):
        ax.add_patch(Rectangle((place - 0.5, row - 0.5), 1, 1, color="white", lw=0))
    low, high = (float(shown.min()), float(shown.max())) if shown.count() else (0.1, 1.0)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    edges = np.arange(-0.5, shown.shape[1]), np.arange(-0.5, shown.shape[0])
    norm = LogNorm(low, high) if log else Normalize(low, high)
    return ax.pcolormesh(*edges, shown, cmap="cividis", norm=norm, rasterized=True)
