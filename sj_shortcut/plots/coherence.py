"""Whether batches agree, layer by layer."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from sj_shortcut.plots.lines import draw_lines

__all__ = ["plot_gradient_coherence"]


def plot_gradient_coherence(
    frame: pd.DataFrame,
    *,
    x: str = "depth",
    hue: str | None = "run",
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw whether the gradients of different batches agree, layer by layer.

    Coherence is the mean cosine between the gradients of two batches: 1 where all pull the same
    way, 0 where they are as unrelated as random directions. Where the frame tells what random
    directions reach (``coherence_floor``), that is shaded.

    Args:
        frame: As from ``gradient_flow`` over several batches.
        x: As for :func:`plot_gradient_flow`.
        hue: As for :func:`plot_gradient_flow`.
        legend: Whether to explain the lines above the Axes.
        ax: Where to draw; default a new figure.

    Returns:
        The Axes.

    Raises:
        TypeError: If ``frame`` is not a DataFrame.
        ValueError: If it is empty, lacks a column, or was measured on a single batch.

    Example:
        >>> frame = pd.DataFrame({"layer": ["conv1", "conv2", "fc"], "depth": [0, 1, 2],
        ...                       "coherence": [0.02, 0.1, 0.7], "run": "vanilla"})
        >>> plot_gradient_coherence(frame).get_ylabel()
        'gradient coherence'
    """
    hint = " Coherence takes several batches: gradient_flow(model, loss_fn, [batch, ...])."
    ax = draw_lines(
        frame,
        x=x,
        y="coherence",
        hue=hue,
        legend=legend,
        ax=ax,
        log=False,
        hint=hint,
        background=_shade_floor,
    )
    lowest = float(frame["coherence"].min())
    ax.set_ylim(min(-0.1, lowest - 0.05), 1.05)
    return ax


def _shade_floor(ax: Axes, frame: pd.DataFrame, by_layer: bool) -> list[Patch]:
    """Shade what random directions reach, where the frame tells."""
    if "coherence_floor" not in frame:
        return []
    floor = frame.groupby("_x")["coherence_floor"].max()
    if by_layer:
        ax.bar(floor.index, 2 * floor, 1.0, -floor, color="0.8", lw=0)
    else:
        ax.fill_between(floor.index, -floor, floor, color="0.8", lw=0)
    return [Patch(color="0.8", label="random directions")]
