"""Which part of each layer's gradient comes from which loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from sj_shortcut.gradients.columns import label_of
from sj_shortcut.plots.axes import new_axes, set_style
from sj_shortcut.plots.frames import check, check_single, places_of
from sj_shortcut.plots.legends import add_legend, thinned
from sj_shortcut.plots.looks import colours
from sj_shortcut.plots.marks import mark_edge
from sj_shortcut.plots.ticks import name_ticks

__all__ = ["plot_gradient_sources"]


def plot_gradient_sources(
    frame: pd.DataFrame,
    *,
    x: str = "depth",
    y: str = "share",
    main: str = "main",
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw which part of each layer's gradient comes from the main loss, and which from each head.

    A bar a layer, divided by source. With ``y="share"`` parts are the sources' components along the
    whole gradient: they add up to 1, and one that pulls against the whole hangs below 0. With a
    norm as ``y``, parts are proportional to the norms, which says how loud each source is rather
    than how far it moves the layer. A layer whose gradient is exactly 0 has a hollow triangle
    instead of a bar, and one without numbers a cross.

    Args:
        frame: As from ``gradient_flow(..., by_source=True)``, of a single run.
        x: ``"depth"`` or ``"layer"``, as for :func:`plot_gradient_flow`.
        y: The column to divide bars by: ``"share"``, or a norm such as ``"weight_grad_norm"``.
        main: What the column ``source`` calls the main loss, drawn lowest and in grey.
        legend: Whether to explain the colours above the Axes.
        ax: Where to draw; default a new figure.

    Returns:
        The Axes.

    Raises:
        TypeError: If ``frame`` is not a DataFrame.
        ValueError: If it is empty, lacks a column, is not split by source, or holds several runs.

    Example:
        >>> frame = pd.DataFrame({"layer": ["conv1", "conv2"] * 2, "depth": [1, 2] * 2,
        ...                       "source": ["main", "main", "sn1", "sn1"],
        ...                       "share": [0.2, 1.0, 0.8, 0.0]})
        >>> ax = plot_gradient_sources(frame)
        >>> [float(bar.get_height()) for bar in ax.patches]
        [0.2, 1.0, 0.8, 0.0]
    """
    hint = " Split the gradient by its sources: gradient_flow(..., by_source=True)."
    check(frame, ["layer", "depth", "source", x, y], hint)
    table, zero, missing, names = _shares(frame, x, y)
    heads = [source for source in table.columns if source != main]
    sources = [main, *heads] if main in table.columns else heads
    painted = ["0.45"] * (main in sources) + colours(len(heads), by_order=len(heads) > 4)

    ax = new_axes(ax)
    low, high = _stack(ax, table[sources].fillna(0.0), painted)
    marks = mark_edge(ax, table.index[zero], table.index[missing], "black")
    if low < 0:
        ax.axhline(0, color="black", lw=0.6)
    ax.set_ylim(1.05 * low, max(1.0, 1.02 * high))
    ax.margins(x=0.01)
    set_style(ax, label_of(x), label_of(y) if y == "share" else "share of norms")
    name_ticks(ax.xaxis, names)
    if legend:
        patches = [
            Patch(color=colour, label="main loss" if source == main else str(source))
            for source, colour in zip(sources, painted, strict=True)
        ]
        add_legend(ax, thinned(patches, 6) + marks)
    return ax


def _shares(
    frame: pd.DataFrame, x: str, y: str
) -> tuple[pd.DataFrame, np.ndarray[Any, Any], np.ndarray[Any, Any], dict[float, str]]:
    """A row a place and a column a source, in the order of the frame.

    Returns:
        The shares, at which places the gradient is 0, at which it is missing, and their names.
    """
    parts = frame.drop_duplicates(["layer", "source", y])
    check_single(parts, ["layer", "source"], y)
    places, names = places_of(parts, x)
    parts = parts.assign(_x=places).dropna(subset=["_x"])
    table = _by_source(parts, y)
    norms = _by_source(parts, "weight_grad_norm" if "weight_grad_norm" in parts else y)
    zero = (norms.fillna(0.0) == 0).all(axis=1) & norms.notna().any(axis=1)
    missing = table.isna().all(axis=1) & ~zero
    if y != "share":
        table = table.div(table.sum(axis=1).where(~zero), axis=0)
    return table, zero.to_numpy(), missing.to_numpy(), names


def _stack(ax: Axes, table: pd.DataFrame, painted: Sequence[Any]) -> tuple[float, float]:
    """Draw a bar a place: positive parts upwards from 0, negative ones downwards.

    Returns:
        The lowest and the highest end of a bar.
    """
    at = table.index.to_numpy(float)
    top, bottom = np.zeros(len(table)), np.zeros(len(table))
    for source, colour in zip(table.columns, painted, strict=True):
        share = table[source].to_numpy()
        base = np.where(share < 0, bottom, top)
        ax.bar(at, share, 1.0, base, color=colour, edgecolor="white", lw=0.3)
        top += share.clip(min=0)
        bottom += share.clip(max=0)
    return float(bottom.min()), float(top.max())


def _by_source(parts: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row a place and one column a source; what is not finite is missing."""
    table = parts.pivot(index="_x", columns="source", values=column).sort_index()
    table = table[list(parts["source"].unique())]
    return table.astype(float).replace([np.inf, -np.inf], np.nan)
