"""How the gradients of one layer are distributed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sj_shortcut.plots.axes import TEXT, new_axes, set_style
from sj_shortcut.plots.frames import check, groups, optional_hue
from sj_shortcut.plots.legends import add_legend
from sj_shortcut.plots.looks import looks_of

__all__ = ["plot_gradient_histogram"]

_BINS = 61  # odd: the middle one is around 0
_SHOWN = 0.999  # of the gradients of the run whose are spread most

_HINT = " Measure it with gradient_histogram(model, loss_fn, batches)."


def plot_gradient_histogram(
    frame: pd.DataFrame,
    *,
    hue: str | None = "run",
    limit: float | None = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw the distribution of one layer's gradients, one outline a run.

    The axis of the gradients is linear, so that a peak at 0 looks like one, and that of their share
    logarithmic: a share of a thousandth in the tails is as legible as the peak. All runs have the
    same bins. Rows of one run (batches, seeds) are counted together.

    Args:
        frame: What :func:`gradient_histogram` gives, or several of them, concatenated.
        hue: The column that tells outlines apart; ``None`` for none, as is the default where there
            is no column ``"run"``.
        limit: The axis goes from minus this to this. Default: what holds 99.9 % of the gradients
            of the run whose are spread most.
        legend: Whether to explain the outlines above the Axes.
        ax: Where to draw; default a new figure.

    Returns:
        The Axes.

    Raises:
        TypeError: If ``frame`` is not a DataFrame.
        ValueError: If it is empty, lacks a column, or holds several layers that ``hue`` does not
            tell apart; if all gradients are 0, or ``limit`` is not above 0.

    Example:
        >>> frame = pd.DataFrame({"layer": "conv1", "low": [-2.0, -1.0, 1.0],
        ...                       "high": [-1.0, 1.0, 2.0], "count": [1, 6, 1]})
        >>> plot_gradient_histogram(frame).get_ylabel()
        'share of gradients'
    """
    hue = optional_hue(frame, hue)
    needed = ["layer", "low", "high", "count", *([] if hue is None else [hue])]
    check(frame, needed, _HINT)
    if hue != "layer" and frame["layer"].nunique() > 1:
        some = ", ".join(f"'{name}'" for name in frame["layer"].unique()[:3])
        raise ValueError(
            f"the frame holds several layers ({some}), whose gradients must not be counted "
            'together: choose one, as in frame[frame.layer == "..."], or tell them apart by '
            'hue="layer".'
        )
    runs = [(level, _summed(rows)) for level, rows in groups(frame, hue)]
    limit = _checked(limit) if limit is not None else max(_spread(rows) for _, rows in runs)
    if not limit:
        raise ValueError("all gradients in the frame are exactly 0: there is nothing to draw.")
    ax = new_axes(ax)
    edges = np.linspace(-limit, limit, _BINS + 1)
    handles = []
    looks = looks_of([level for level, _ in runs])
    for (level, rows), look in zip(runs, looks, strict=True):
        share = _rebinned(rows, edges) / rows["count"].sum()
        # Less than one gradient is none, and a fraction of a coarser bin.
        share = np.where(share * rows["count"].sum() < 0.5, np.nan, share)
        ax.stairs(share, edges, color=look.colour, ls=look.dashes, lw=1.3, baseline=None)
        _fill(ax, share, edges, look.colour)
        if level is not None:
            handles.append(look.handle(str(level)))
    ax.set_yscale("log")
    least = min(0.5 / rows["count"].sum() for _, rows in runs)
    ax.set_ylim(least, 1.5 * max(least, ax.dataLim.y1))
    ax.set_xlim(-limit, limit)
    set_style(ax, "gradient", "share of gradients")
    ax.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3), useMathText=True)
    ax.xaxis.get_offset_text().set_fontsize(TEXT)
    if legend:
        for handle in handles:
            handle.set_marker("")
        add_legend(ax, handles)
    return ax


def _summed(rows: pd.DataFrame) -> pd.DataFrame:
    """The counts of each bin, over batches, seeds and whatever else there is."""
    return rows.groupby(["low", "high"])[["count"]].sum().reset_index()


def _spread(rows: pd.DataFrame) -> float:
    """The size that most of the gradients do not exceed."""
    low, high, count = rows[["low", "high", "count"]].to_numpy(float).T
    size = np.maximum(np.abs(low), np.abs(high))
    order = np.argsort(size, kind="stable")
    reached = count[order].cumsum() >= _SHOWN * count.sum()
    return float(size[order][reached.argmax()])


def _rebinned(rows: pd.DataFrame, edges: Any) -> Any:
    """The counts in equal bins: those of a wider bin are spread over it, those of 0 stay there."""
    counts = np.zeros(len(edges) - 1)
    for low, high, count in rows[["low", "high", "count"]].to_numpy(float):
        if high <= low:
            place = int(np.searchsorted(edges, low, side="right")) - 1
            if 0 <= place < len(counts):
                counts[place] += count
            continue
        part = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
        counts += count * part / (high - low)
    return counts


def _fill(ax: Axes, share: Any, edges: Any, colour: Any) -> None:
    """Shade what is below an outline."""
    ax.fill_between(
        edges, 0, np.append(share, share[-1]), step="post", color=colour, alpha=0.15, lw=0
    )


def _checked(limit: Any) -> float:
    if isinstance(limit, bool) or not isinstance(limit, int | float):
        raise TypeError(f"limit must be a number, got {type(limit).__name__}.")
    if not 0 < limit < math.inf:
        raise ValueError(f"limit must be above 0 and finite, got {limit}.")
    return float(limit)
