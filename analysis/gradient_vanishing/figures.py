"""The figures of the study of vanishing gradients, from its tables alone; one function a figure."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.common.figures import DrawFigure, Tables, save_all
from analysis.gradient_vanishing.expectations import NAMES
from analysis.gradient_vanishing.run import EARLY, MAPPED, METHODS, middle
from sj_shortcut import (
    plot_gradient_coherence,
    plot_gradient_flow,
    plot_gradient_heatmap,
    plot_gradient_sources,
    plot_history,
)

__all__ = ["draw_all", "focus"]

NETS = ("plain", "resnet")


def draw_all(tables: Tables, folder: Path) -> dict[str, str]:
    """Draw every figure there are rows for; file name → what it shows."""
    size = f"{focus(tables)} layers"
    drawn = save_all(FIGURES, tables, folder, DPI)
    return {name: text.replace("@", size) for name, text in drawn.items()}


def focus(tables: Tables) -> int:
    """The depth that figures of one network show."""
    return middle(tables["runs"]["size"])


def case(table: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """The rows of one case, vanilla before shortcuts."""
    if not len(table):
        return table
    wanted = {"data": "digits", "net": "plain", "surrogate": "atan", "seed": 0, **wanted}
    for column, value in wanted.items():
        if value is not None:
            table = table[table[column] == value]
    return table.sort_values("method", key=lambda names: names.map(METHODS.index), kind="stable")


def whole(ax: Axes) -> Figure:
    """The figure that these axes are in."""
    assert isinstance(ax.figure, Figure)
    return ax.figure


def panels(rows: int, columns: int, height: float) -> tuple[Figure, np.ndarray]:
    figure, axes = plt.subplots(
        rows, columns, figsize=(7.0, height), layout="constrained", sharey="row", squeeze=False
    )
    return figure, axes


def legend_above(figure: Figure, axes: np.ndarray, every_name: bool = False) -> None:
    """One legend for all panels, that of the one with most entries, and one label below."""
    legends = [ax.get_legend() for ax in axes.flat if ax.get_legend() is not None]
    if legends:
        most = max(legends, key=lambda legend: len(legend.get_texts()))
        figure.legend(
            most.legend_handles,
            [text.get_text() for text in most.get_texts()],
            loc="outside upper center",
            ncols=5,
            frameon=False,
            fontsize="small",
        )
    for legend in legends:
        legend.remove()
    label = ""
    for ax in axes.flat:
        names = ax.xaxis.get_tick_params()["labelbottom"]
        ax.label_outer()
        label = ax.get_xlabel() or label
        ax.set_xlabel("")
        if every_name:  # rows of different networks have different layers
            ax.xaxis.set_tick_params(labelbottom=names)
    figure.supxlabel(label, fontsize="small")


def moments(rows: pd.DataFrame) -> dict[str, int]:
    """Title and epoch of the three times at which every run is measured."""
    last = int(rows["epochs"].max())
    first = min(EARLY, last)
    return {"before training": 0, f"after {first} epochs": first, f"after all {last} epochs": last}


def early(tables: Tables, **wanted: object) -> pd.DataFrame:
    """Gradients of a case after the first epochs."""
    rows = case(tables["gradients"], **wanted)
    return rows[rows["epoch"] == rows["epochs"].clip(upper=EARLY)] if len(rows) else rows


def figure_see_it(tables: Tables) -> Figure | None:
    """Do batches agree? Plain network, @, after two epochs of digits."""
    rows = early(tables, size=focus(tables))
    if rows.empty:
        return None
    return whole(plot_gradient_coherence(rows, hue="method"))


def figure_flow(tables: Tables) -> Figure | None:
    """Norm (above) and coherence (below) of each layer's gradient: plain, @, ATan, digits.
    After training λ is 0, so what is shown there is the gradient of the main loss alone."""
    rows = case(tables["gradients"], size=focus(tables))
    if rows.empty:
        return None
    figure, axes = panels(2, 3, 4.4)
    for (title, epoch), upper, lower in zip(moments(rows).items(), *axes, strict=True):
        now = rows[rows["epoch"] == epoch]
        plot_gradient_flow(now, hue="method", ax=upper, legend=False)
        plot_gradient_coherence(now, hue="method", ax=lower)
        upper.set_title(title, fontsize="medium")
    legend_above(figure, axes)
    return figure


def figure_depths(tables: Tables) -> Figure | None:
    """Coherence after two epochs by depth: plain (above) and residual networks (below), ATan."""
    rows = early(tables, net=None)
    nets = [net for net in NETS if len(rows) and (rows["net"] == net).any()]
    if not nets:
        return None
    sizes = sorted(rows["size"].unique())
    figure, axes = panels(len(nets), len(sizes), 2.3 * len(nets))
    for line, net in zip(axes, nets, strict=True):
        for ax, size in zip(line, sizes, strict=True):
            now = rows[(rows["net"] == net) & (rows["size"] == size)]
            ax.set_title(f"{net}, {size} layers", fontsize="medium")
            if len(now):
                plot_gradient_coherence(now, hue="method", ax=ax)
            else:
                ax.set_axis_off()
    legend_above(figure, axes, every_name=True)
    return figure


def figure_surrogates(tables: Tables) -> Figure | None:
    """Norm of each layer's gradient by surrogate function: plain, @, vanilla."""
    rows = case(tables["gradients"], surrogate=None, size=focus(tables), method="vanilla")
    if rows.empty:
        return None
    rows = rows.sort_values("surrogate", key=lambda names: names.map(list(NAMES).index))
    rows = rows.assign(surrogate=rows["surrogate"].map(NAMES))
    figure, axes = panels(1, 3, 2.6)
    for (title, epoch), ax in zip(moments(rows).items(), axes[0], strict=True):
        plot_gradient_flow(rows[rows["epoch"] == epoch], hue="surrogate", ax=ax)
        ax.set_title(title, fontsize="medium")
    legend_above(figure, axes)
    return figure


def figure_accuracy(tables: Tables) -> Figure | None:
    """Test accuracy after training over depth, on digits. Chance is 10 %, the dotted line."""
    kinds = [("plain", "atan"), ("resnet", "atan"), ("plain", "sigmoid"), ("plain", "rect")]
    found = [(kind, case(tables["runs"], net=kind[0], surrogate=kind[1])) for kind in kinds]
    found = [(kind, rows) for kind, rows in found if len(rows)]
    if not found:
        return None
    sizes = sorted(pd.concat([rows for _, rows in found])["size"].unique())
    figure, axes = panels(1, len(found), 2.2)
    for ((net, shape), rows), ax in zip(found, axes[0], strict=True):
        plot_history(rows, x="size", y=["accuracy"], hue="method", ax=ax)
        ax.axhline(0.1, color="0.6", lw=0.8, ls=":")
        ax.set(ylim=(0, 1), xticks=sizes, xlim=(sizes[0] - 2, sizes[-1] + 2))
        ax.set_xlabel("layers", fontsize="small")
        ax.set_title(f"{net}, {NAMES[shape]}", fontsize="medium")
    legend_above(figure, axes)
    return figure


def figure_map(tables: Tables) -> Figure | None:
    """Coherence of each layer over the epochs: plain, @, ATan, digits."""
    rows = case(tables["gradients"], size=MAPPED[2])
    if rows.empty:
        return None
    figure, axes = panels(1, 2, 3.2)
    for method, ax in zip(METHODS, axes[0], strict=True):
        plot_gradient_heatmap(rows[rows["method"] == method], column="coherence", ax=ax)
        ax.collections[0].set_clim(0, 1)
        ax.set_title(method, fontsize="medium")
        ax.label_outer()
    return figure


def figure_sources(tables: Tables) -> Figure | None:
    """Which loss feeds which layer after two epochs: plain, @, ATan, digits."""
    rows = case(tables["sources"], size=focus(tables))
    return None if rows.empty else whole(plot_gradient_sources(rows))


def figure_history(tables: Tables) -> Figure | None:
    """Training loss (of the output alone) and test accuracy: plain, @, ATan, both seeds."""
    rows = case(tables["history"], size=focus(tables), seed=None)
    return None if rows.empty else whole(plot_history(rows, hue="method"))


def figure_real_data(tables: Tables) -> Figure | None:
    """Coherence after two epochs on images and on events: plain, @, ATan."""
    found = {data: early(tables, data=data) for data in ("cifar10", "nmnist")}
    found = {data: rows for data, rows in found.items() if len(rows)}
    if not found:
        return None
    figure, axes = panels(1, len(found), 2.6)
    for (data, rows), ax in zip(found.items(), axes[0], strict=True):
        plot_gradient_coherence(rows, hue="method", ax=ax)
        ax.set_title(NAMES[data], fontsize="medium")
    legend_above(figure, axes)
    return figure


DPI = 200
FIGURES: dict[str, DrawFigure] = {
    "see_it": figure_see_it,
    "flow": figure_flow,
    "depths": figure_depths,
    "accuracy": figure_accuracy,
    "surrogates": figure_surrogates,
    "map": figure_map,
    "sources": figure_sources,
    "history": figure_history,
    "real_data": figure_real_data,
}
