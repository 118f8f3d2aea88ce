"""The figure of the study of the first layer's gradients, from its tables alone."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis.common.figures import Tables, save_all
from analysis.gradients.plan import METHODS, SURROGATES
from sj_shortcut import plot_gradient_histogram

__all__ = ["draw_all", "labelled", "root_mean_square"]

DPI = 150


def draw_all(tables: Tables, folder: Path) -> dict[str, str]:
    """Draw every figure there are rows for; file name → what it shows."""
    return save_all((figure_first_layer,), tables, folder, DPI)


def figure_first_layer(tables: Tables) -> Figure | None:
    """Gradients of the first layer's weights: share of them, on a logarithmic axis, by their
    value. Left before training, right after it; one row a surrogate function. RMS is the root
    mean square."""
    bins = labelled(tables)
    if bins.empty:
        return None
    surrogates = [name for name in SURROGATES if name in set(bins["surrogate"])]
    steps = sorted(bins["step"].unique())
    figure, axes = plt.subplots(
        len(surrogates),
        len(steps),
        figsize=(8.0, 0.6 + 2.6 * len(surrogates)),
        layout="constrained",
        squeeze=False,
    )
    for row, surrogate in zip(axes, surrogates, strict=True):
        for ax, step in zip(row, steps, strict=True):
            shown = bins[(bins["surrogate"] == surrogate) & (bins["step"] == step)]
            if shown.empty:
                ax.set_axis_off()
                continue
            sizes = {name: root_mean_square(part) for name, part in shown.groupby("method")}
            names = {name: f"{METHODS[name]}, RMS {sizes[name]:.1e}" for name in sizes}
            order = [name for name in METHODS if name in sizes]
            parts = [shown[shown["method"] == name] for name in order]
            frame = pd.concat(parts)
            plot_gradient_histogram(frame.assign(run=frame["method"].map(names)), ax=ax)
            when = "before training" if step == 0 else f"after {step} steps"
            title = f"{SURROGATES[surrogate]}, {when}"
            if len(sizes) == len(METHODS):
                title += f": {sizes['eq6'] / sizes['vanilla']:.1f} × as wide with shortcuts"
            ax.set_title(title, loc="left", fontsize="small", pad=20)
    return figure


def labelled(tables: Tables) -> pd.DataFrame:
    """The bins, with the settings of their run."""
    bins, runs = tables["bins"], tables["runs"]
    if bins.empty or runs.empty:
        return pd.DataFrame()
    return bins.merge(runs[["run", "surrogate", "method", "seed"]], on="run")


def root_mean_square(bins: pd.DataFrame) -> float:
    """Of the gradients in these bins, each taken for the middle of its bin."""
    squares = ((bins["low"] + bins["high"]) / 2) ** 2 * bins["count"]
    return float((squares.sum() / bins["count"].sum()) ** 0.5)
