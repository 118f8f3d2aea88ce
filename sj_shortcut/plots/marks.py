"""Marks at the edge of an Axes, for what has no place in it."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

__all__ = ["leave_room_below", "mark_edge"]


def leave_room_below(ax: Axes, marked: bool) -> None:
    """Keep the lower edge of a log axis free for marks, and the axis itself sane."""
    if ax.dataLim.height == 0 or not math.isfinite(ax.dataLim.height):
        ax.set_ylim(1e-6, 1)
    if marked:
        low, high = ax.get_ylim()
        ax.set_ylim(low / (high / low) ** 0.12, high)


def mark_edge(ax: Axes, zeros: Any, gaps: Any, colour: Any) -> list[Line2D]:
    """Mark places at the lower edge; return what explains the marks, in neutral colour."""
    handles = []
    for at, marker, label in ((zeros, "v", "exactly 0"), (gaps, "x", "none or NaN")):
        if not len(at):
            continue
        look: dict[str, Any] = {"marker": marker, "ls": "", "ms": 3.5, "mew": 0.8, "mfc": "none"}
        edge = ax.get_xaxis_transform()
        ax.plot(at, [0.03] * len(at), color=colour, transform=edge, zorder=4, **look)
        handles.append(Line2D([], [], color="0.3", label=label, **look))
    return handles
