"""Loss and accuracy over the epochs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sj_shortcut.gradients.columns import label_of
from sj_shortcut.plots.axes import COLUMN, new_axes, set_style, split
from sj_shortcut.plots.frames import check, groups, optional_hue
from sj_shortcut.plots.legends import add_legend
from sj_shortcut.plots.lines import draw_spread
from sj_shortcut.plots.looks import DASHES, looks_of

__all__ = ["plot_history"]


def plot_history(
    frame: pd.DataFrame,
    *,
    x: str = "epoch",
    y: Sequence[str] = ("loss", "accuracy"),
    hue: str | None = "run",
    style: str | None = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw loss and accuracy over the epochs, one above the other.

    Several rows for one epoch and line (seeds, say) become their median, with a band from the
    smallest to the largest.

    Args:
        frame: One row an epoch and run, with the columns named by ``x`` and ``y``.
        x: The column that goes to the right.
        y: The columns to draw, each in a panel of its own. Those that the frame lacks are left out,
            as long as there is one.
        hue: The column that tells lines apart by colour; ``None`` for none, as is the default where
            there is no column ``"run"``.
        style: A column that tells lines of one colour apart by dashes, such as training and test.
        legend: Whether to explain the lines above the Axes.
        ax: Where to draw; default a new figure. It becomes the top panel, and the room is divided.

    Returns:
        The Axes of the top panel; the others are in ``ax.figure.axes``.

    Raises:
        TypeError: If ``frame`` is not a DataFrame.
        ValueError: If it is empty or lacks a column.

    Example:
        >>> frame = pd.DataFrame({"epoch": [0, 1, 2], "loss": [2.3, 1.1, 0.6],
        ...                       "accuracy": [0.1, 0.6, 0.8]})
        >>> len(plot_history(frame).figure.axes)
        2
    """
    drawn = [column for column in y if column in getattr(frame, "columns", ())] or list(y)
    hue = optional_hue(frame, hue)
    check(frame, [x, *drawn, *(name for name in (hue, style) if name is not None)])
    ax = new_axes(ax, (COLUMN[0], 1.1 + 1.2 * len(drawn)))
    panels = split(ax, len(drawn))
    for panel, column in zip(panels, drawn, strict=True):
        handles = _draw_panel(panel, frame, x, column, hue, style)
        set_style(panel, label_of(x), label_of(column))
        panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        panel.label_outer()
    if legend:
        add_legend(panels[0], handles)
    return ax


def _draw_panel(
    ax: Axes, frame: pd.DataFrame, x: str, y: str, hue: str | None, style: str | None
) -> list[Line2D]:
    """Draw a line for each level of ``hue`` and ``style``; return what explains them."""
    lines, variants = list(groups(frame, hue)), list(groups(frame, style))
    handles = []
    for (level, rows), look in zip(lines, looks_of([level for level, _ in lines]), strict=True):
        if level is not None:
            handles.append(look.handle(str(level), dashes="-" if style else None))
        if style is None:
            draw_spread(ax, rows[x], rows[y], look, look.dashes)
            continue
        for i, (variant, _) in enumerate(variants):
            part = rows[rows[style] == variant]
            draw_spread(ax, part[x], part[y], look, DASHES[i % len(DASHES)])
    if style is not None:
        handles += [
            Line2D([], [], color="0.3", lw=1.2, ls=DASHES[i % len(DASHES)], label=str(variant))
            for i, (variant, _) in enumerate(variants)
        ]
    return handles
