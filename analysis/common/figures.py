"""What the figures of the studies have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["DrawFigure", "Tables", "legend_above", "panels", "save_all", "tidy"]

Tables = Mapping[str, pd.DataFrame]
DrawFigure = Callable[[Tables], Figure | None]


def save_all(
    draws: Mapping[str, DrawFigure] | Sequence[DrawFigure], tables: Tables, folder: Path, dpi: int
) -> dict[str, str]:
    """Draw every figure there are rows for; file name → what its docstring says it shows.

    Args:
        draws: Functions by the name of the figure, or functions called ``figure_NAME``.
        tables: What they draw from.
        folder: Where the figures go.
        dpi: Dots an inch.
    """
    if not isinstance(draws, Mapping):
        draws = {draw.__name__.removeprefix("figure_"): draw for draw in draws}
    drawn = {}
    for name, draw in draws.items():
        figure = draw(tables)
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=dpi)
            plt.close(figure)
            drawn[f"{name}.png"] = " ".join((draw.__doc__ or "").split())
    return drawn


def panels(number: int, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """Axes side by side on a page 8 inches wide."""
    figure, axes = plt.subplots(
        1, number, figsize=(8.0, height), layout="constrained", squeeze=False
    )
    for ax in axes.flat:
        tidy(ax)
    return figure, list(axes.flat)


def tidy(ax: Axes) -> None:
    """A light grid, and no frame above and at the right."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="0.92")
    ax.set_axisbelow(True)


def legend_above(figure: Figure, ax: Axes, columns: int = 5) -> None:
    """The legend of these axes, above all of the figure."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside upper center",
            ncols=columns,
            frameon=False,
            fontsize="small",
        )
