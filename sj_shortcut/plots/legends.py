"""Legends above the Axes, never on data.

A figure's layout should be "constrained", as that of a new figure is, for them to find room.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties

from sj_shortcut.plots.axes import SMALL, points

__all__ = ["add_legend", "thinned"]


def thinned(handles: list[Any], most: int) -> list[Any]:
    """At most so many legend entries of an ordered scale, its ends among them."""
    if len(handles) <= most:
        return handles
    return [handles[round(i)] for i in np.linspace(0, len(handles) - 1, most)]


def add_legend(ax: Axes, handles: Sequence[Any], title: str = "") -> None:
    """Explain above the Axes, in as many columns as fit."""
    if not handles:
        return
    size = FontProperties(size=SMALL).get_size_in_points()
    widths = [size * (0.5 * len(str(handle.get_label())) + 3.5) for handle in handles]
    room = 1.05 * points(ax, "x")  # the Axes grows a little when its figure is laid out
    count = len(handles)
    columns = next(
        columns
        for columns in range(count, 0, -1)
        if sum(_widest_of_columns(widths, columns)) <= room or columns == 1
    )
    legend = ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        fontsize=SMALL,
        handlelength=2.0,
        handletextpad=0.5,
        columnspacing=1.0,
        borderaxespad=0.2,
        title=title or None,
        title_fontsize=SMALL,
    )
    legend.set_alignment("left")


def _widest_of_columns(widths: Sequence[float], columns: int) -> list[float]:
    """Width of each column, filled one after the other as matplotlib does."""
    return [max(part) for part in np.array_split(np.asarray(widths), columns)]
