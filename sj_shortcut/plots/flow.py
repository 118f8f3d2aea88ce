"""How large the gradient of each layer is."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from sj_shortcut.gradients.columns import scale_of
from sj_shortcut.plots.lines import draw_lines

__all__ = ["plot_gradient_flow"]


def plot_gradient_flow(
    frame: pd.DataFrame,
    *,
    x: str = "depth",
    y: str = "weight_grad_norm",
    hue: str | None = "run",
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw how large each layer's gradient is, on a logarithmic axis.

    A gradient of exactly 0 has no place on such an axis: it is marked by a hollow triangle at the
    lower edge, and one that is missing (``None``) or not finite by a cross there; the line breaks
    at both. Several rows for one layer and ``hue`` (seeds, say) become their median, with a band
    from the smallest to the largest. Other columns than gradients, shares say, have a linear axis.

    Args:
        frame: As from ``gradient_flow`` or a ``GradientRecorder``. Layers that did not run have no
            depth and are left out.
        x: ``"depth"``, with layer names along the axis where all runs have the same; ``"layer"``,
            each name in a place of its own; or a number such as ``"epoch"``.
        y: The column to draw. One of your own goes on a logarithmic axis, as gradients do.
        hue: The column that tells lines apart; ``None`` for a single line, as is the default where
            there is no column ``"run"``.
        legend: Whether to explain the lines above the Axes.
        ax: Where to draw; default a new figure.

    Returns:
        The Axes.

    Raises:
        TypeError: If ``frame`` is not a DataFrame.
        ValueError: If it is empty or lacks a column, if ``y`` has no number at all, or if the rows
            are split by source and ``hue`` is not ``"source"``.

    Example:
        >>> frame = pd.DataFrame({"layer": ["conv1", "conv2", "fc"], "depth": [0, 1, 2],
        ...                       "weight_grad_norm": [0.0, 2e-4, 3e-2]})
        >>> plot_gradient_flow(frame).get_yscale()
        'log'
    """
    return draw_lines(
        frame, x=x, y=y, hue=hue, legend=legend, ax=ax, log=scale_of(y, "log") == "log"
    )
