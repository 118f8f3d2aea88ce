"""New Axes, divided Axes, and what all of them look like.

No function of this room shows a figure, and none changes matplotlib's settings. Font sizes are
relative to ``rcParams["font.size"]``, so a style set by the caller holds.
"""

from __future__ import annotations

from typing import Literal

from matplotlib.axes import Axes

# The width of a column in most two-column papers, in inches.
COLUMN = (3.3, 2.5)
# Relative to rcParams["font.size"].
TEXT, SMALL, TINY = "small", "x-small", "xx-small"

__all__ = ["COLUMN", "SMALL", "TEXT", "TINY", "new_axes", "points", "set_style", "split"]


def new_axes(ax: Axes | None, size: tuple[float, float] = COLUMN) -> Axes:
    """The Axes to draw into: the one that was given, or that of a new figure of this size."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=size, layout="constrained")
    return figure.add_subplot()


def split(ax: Axes, count: int) -> list[Axes]:
    """Divide the room of an Axes into panels with one x axis; it becomes the top one."""
    figure, spec = ax.get_figure(), ax.get_subplotspec()
    assert figure is not None
    if count == 1:
        return [ax]
    if spec is not None:
        grid = spec.subgridspec(count, 1, hspace=0.08)
        ax.set_subplotspec(grid[0])
        return [ax, *(figure.add_subplot(grid[i], sharex=ax) for i in range(1, count))]
    left, bottom, width, height = ax.get_position().bounds
    step = height / count
    rooms = [(left, bottom + height - (i + 1) * step, width, 0.9 * step) for i in range(count)]
    ax.set_position(rooms[0])
    return [ax, *(figure.add_axes(room, sharex=ax) for room in rooms[1:])]


def set_style(ax: Axes, x: str, y: str) -> None:
    """Name the axes and give the Axes the look of all plots."""
    ax.set_xlabel(x, fontsize=TEXT)
    ax.set_ylabel(y, fontsize=TEXT)
    ax.tick_params(which="both", labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    if not ax.collections or ax.lines:
        ax.grid(axis="y", color="0.92", lw=0.6)


def points(ax: Axes, direction: Literal["x", "y"]) -> float:
    """Length of an axis in points."""
    figure = ax.get_figure()
    box = ax.get_window_extent()
    pixels = box.width if direction == "x" else box.height
    return 72.0 * float(pixels) / (figure.dpi if figure is not None else 72.0)
