"""Frames to draw, and what is asked of a drawing."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sj_shortcut import (
    plot_gradient_coherence,
    plot_gradient_flow,
    plot_gradient_heatmap,
    plot_gradient_sources,
    plot_history,
)

LAYER_PLOTS = [
    plot_gradient_flow,
    plot_gradient_coherence,
    plot_gradient_heatmap,
    plot_gradient_sources,
]


PLOTS = [*LAYER_PLOTS, plot_history]


def flow(layers: int = 5, **columns: object) -> pd.DataFrame:
    """A frame like those of gradient_flow, with norms from 1e-4 up to 1."""
    depth = np.arange(1, layers + 1)
    frame = pd.DataFrame(
        {
            "layer": [f"layer{1 + i // 12}.{i // 2 % 6}.conv{1 + i % 2}" for i in range(layers)],
            "depth": depth,
            "weight_grad_norm": 10.0 ** (4 * (depth - layers) / max(layers - 1, 1)),
            "coherence": depth / layers,
            "coherence_floor": 0.1,
            "run": "vanilla",
            "epoch": 0,
            "source": "main",
            "share": 1.0,
            "loss": 1.0,
            "accuracy": 0.5,
        }
    )
    return frame.assign(**columns)


def history(run: str = "vanilla", **columns: object) -> pd.DataFrame:
    return pd.DataFrame(
        {"epoch": [1, 2, 3], "loss": [2.0, 1.0, 0.5], "accuracy": [0.1, 0.5, 0.8], "run": run}
    ).assign(**columns)


def drawn(ax: Axes) -> list[tuple[list[float], list[float]]]:
    """The points of each line in data coordinates."""
    return [
        (list(line.get_xdata()), list(line.get_ydata()))
        for line in ax.lines
        if line.get_transform() == ax.transData
    ]


def marked(ax: Axes) -> dict[str, list[float]]:
    """Places marked at the lower edge, by marker."""
    edge = ax.get_xaxis_transform()
    return {
        str(line.get_marker()): list(line.get_xdata())
        for line in ax.lines
        if line.get_transform() == edge
    }


def labels(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def names_along(ax: Axes, axis: str = "x") -> list[str]:
    ax.figure.draw_without_rendering()
    ticks = ax.get_xticklabels() if axis == "x" else ax.get_yticklabels()
    return [tick.get_text() for tick in ticks]
