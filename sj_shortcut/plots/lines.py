"""Lines over layers or epochs, one a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sj_shortcut.gradients.columns import label_of
from sj_shortcut.plots.axes import new_axes, set_style
from sj_shortcut.plots.frames import check, check_whole, groups, no_number, optional_hue, places_of
from sj_shortcut.plots.legends import add_legend, thinned
from sj_shortcut.plots.looks import COLOURS, Look, in_order, looks_of
from sj_shortcut.plots.marks import leave_room_below, mark_edge
from sj_shortcut.plots.ticks import name_ticks

__all__ = ["draw_lines", "draw_spread"]

# Draws behind the lines of a frame, whose column "_x" has their places; returns what explains it.
# The last argument tells whether these are the places of layers.
Background = Callable[[Axes, pd.DataFrame, bool], list[Patch]]


def draw_lines(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    hue: str | None,
    legend: bool,
    ax: Axes | None,
    log: bool,
    hint: str = "",
    background: Background | None = None,
    label: str = "",
) -> Axes:
    """Draw a column over layers or another column, a line for each level of ``hue``.

    Args:
        frame: The frame.
        x: The column along the axis; ``"depth"`` and ``"layer"`` put names there.
        y: The column to draw.
        hue: The column that tells lines apart.
        legend: Whether to explain the lines.
        ax: Where to draw; default a new figure.
        log: Whether the axis is logarithmic.
        hint: What to say where ``y`` cannot be drawn.
        background: Draws behind the lines.
        label: What the axis calls ``y``, if not by its own name.

    Returns:
        The Axes.
    """
    hue = optional_hue(frame, hue)
    by_layer = x in ("depth", "layer")
    needed = ["layer", "depth"] if by_layer else [x]
    check(frame, [*needed, y, *([] if hue is None else [hue])], hint)
    check_whole(frame, (x, hue))
    if not frame[y].notna().any():
        raise no_number(y, hint)
    places, names = places_of(frame, x) if by_layer else (frame[x], {})
    frame = frame.assign(_x=places)
    ax = new_axes(ax)
    if log:
        ax.set_yscale("log")
    explained = background(ax, frame, by_layer) if background is not None else []
    handles, marks, ordered = _draw_each(ax, frame, y, hue, log)
    set_style(ax, label_of(x), label or label_of(y))
    name_ticks(ax.xaxis, names)
    if legend:
        add_legend(ax, [*handles, *explained, *marks], label_of(hue) if hue and ordered else "")
    return ax


def _draw_each(
    ax: Axes, frame: pd.DataFrame, y: str, hue: str | None, log: bool
) -> tuple[list[Line2D], list[Line2D], bool]:
    """Draw the lines; return what explains them and their marks, and whether they are in order."""
    lines = list(groups(frame, hue))
    levels = [level for level, _ in lines]
    looks = looks_of(levels)
    spreads = [
        draw_spread(ax, rows["_x"], rows[y], look, look.dashes, log)
        for (_, rows), look in zip(lines, looks, strict=True)
    ]
    if log:
        leave_room_below(ax, any(len(places) for spread in spreads for places in spread))
    marks: dict[str, Line2D] = {}
    for look, (zeros, gaps) in zip(looks, spreads, strict=True):
        marks |= {str(m.get_label()): m for m in mark_edge(ax, zeros, gaps, look.colour)}
    named = [(level, look) for level, look in zip(levels, looks, strict=True) if level is not None]
    handles = [look.handle(str(level)) for level, look in named]
    ordered = in_order(levels)
    if ordered or len(handles) > len(COLOURS):
        handles = thinned(handles, 5)
    return handles, list(marks.values()), ordered


def draw_spread(
    ax: Axes, x: pd.Series[Any], y: pd.Series[Any], look: Look, dashes: str, log: bool = False
) -> tuple[Any, Any]:
    """Draw the median and the range of ``y``; return where it is 0 on a log axis, and missing."""
    values = pd.to_numeric(y).astype(float).replace([np.inf, -np.inf], np.nan)
    at_each = values.groupby(x.to_numpy())
    middle, low, high = at_each.median(), at_each.min(), at_each.max()
    at = middle.index.to_numpy()
    missing = middle.isna().to_numpy()
    zero = (middle <= 0).to_numpy() if log else np.zeros(len(at), bool)
    line = middle.mask(zero)
    few = len(at) <= 60
    ax.plot(
        at,
        line,
        color=look.colour,
        ls=dashes,
        marker=look.marker if few else None,
        ms=3.0 if len(at) <= 24 else 2.0,
        lw=1.2,
        zorder=3,
    )
    if at_each.size().max() > 1:
        least = line.where(low <= 0, low) if log else low
        ax.fill_between(at, least, high.mask(zero), color=look.colour, alpha=0.2, lw=0)
    return at[zero], at[missing]
