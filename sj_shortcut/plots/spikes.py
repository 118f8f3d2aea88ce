"""How many spikes each layer fires, and what they cost."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from sj_shortcut.plots.frames import check, groups, optional_hue
from sj_shortcut.plots.lines import draw_lines
from sj_shortcut.spikes.columns import COUNTS, LABELS, SHARES, why_missing

__all__ = ["plot_spikes"]

_OF_NEURONS = ("spikes", *SHARES)


def plot_spikes(
    frame: pd.DataFrame,
    *,
    x: str = "depth",
    y: str = "synops",
    hue: str | None = "run",
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw what each layer fires or costs, from 0 up, with its sum over layers in the legend.

    Several rows for one layer and ``hue`` (seeds, say) become their median, with a band from the
    smallest to the largest. Layers that did not run are left out.

    Args:
        frame: As from ``spike_report``; several behind each other by ``pd.concat``.
        x: ``"depth"``, with layer names along the axis where all runs have the same; or
            ``"layer"``, each name in a place of its own.
        y: ``"synops"``, ``"macs"`` or ``"energy_pj"`` of layers that multiply; ``"spikes"``,
            ``"firing_rate"``, ``"silent"`` or ``"saturated"`` of neurons.
        hue: The column that tells lines apart; ``None`` for a single line, as is the default where
            there is no column ``"run"``.
        legend: Whether to explain the lines above the Axes.
        ax: Where to draw; default a new figure.

    Returns:
        The Axes.

    Raises:
        TypeError: If ``frame`` is not a DataFrame.
        ValueError: If it is empty or lacks a column, or if ``y`` is another or has no number.

    Example:
        >>> frame = pd.DataFrame({"layer": ["conv1", "sn1", "fc"], "depth": [1, 2, 3],
        ...                       "kind": ["weights", "neurons", "weights"],
        ...                       "spikes": [float("nan"), 9.0, float("nan")],
        ...                       "synops": [0.0, float("nan"), 90.0]})
        >>> plot_spikes(frame).get_ylabel()
        'SynOps a sample'
    """
    if y not in (*COUNTS, *SHARES):
        raise ValueError(f"y must be one of {', '.join(map(repr, (*COUNTS, *SHARES)))}, not {y!r}.")
    hint = " Add it with spike_report(..., energy=True)." if y == "energy_pj" else ""
    check(frame, ["layer", "depth", "kind", y], hint)
    hue = optional_hue(frame, hue)
    own = frame[(frame["kind"] == "neurons") == (y in _OF_NEURONS)].dropna(subset=["depth"])
    if not own[y].notna().any():
        raise ValueError(f"no row of the frame has a number in '{y}'{why_missing(y)}.")
    if hue is not None and y in COUNTS:
        check(own, [hue])
        own = own.assign(**{hue: own[hue].map(_with_sums(own, y, hue))})
    ax = draw_lines(own, x=x, y=y, hue=hue, legend=legend, ax=ax, log=False, label=LABELS[y])
    ax.set_ylim(bottom=0)
    return ax


def _with_sums(own: pd.DataFrame, y: str, hue: str) -> dict[object, str]:
    """Each level with its sum over layers; the mean sum where layers have several rows."""
    sums = {level: rows.groupby("layer")[y].mean().sum() for level, rows in groups(own, hue)}
    return {level: f"{level} ({_rounded(total)} in all)" for level, total in sums.items()}


def _rounded(number: float) -> str:
    """Three digits that count, without an exponent."""
    return f"{float(f'{number:.3g}'):,.10g}"
