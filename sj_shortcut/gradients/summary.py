"""Sum a gradient frame up: one row a run, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from sj_shortcut.gradients.columns import run_columns
from sj_shortcut.gradients.summary_table import SummaryTable

__all__ = ["summarize"]

# A gradient this many times smaller in the first layer than in the last counts as vanishing.
_MUCH = 100.0
# Part of the largest norm above which a layer takes part in learning.
_EFFECTIVE = 0.01


def summarize(frame: pd.DataFrame, by: str | Sequence[str] | None = None) -> pd.DataFrame:
    """Say where the gradient dies, by how much, and whether batches agree on it.

    Args:
        frame: From :class:`GradientRecorder` or :func:`gradient_flow`.
        by: The columns that tell runs apart; default every tag, ``step``, ``rank`` and ``source``.
            A column that you computed, such as a ratio of two others, tells no runs apart. Columns
            left out are averaged over: norms by their geometric mean, coherence by its mean.

    Returns:
        One row a run, a DataFrame that prints its verdicts whole, with the columns

        - those that tell the runs apart;
        - ``layers``: number of layers that got a gradient or should have (frozen ones do not
          count);
        - ``decades_per_layer``: orders of magnitude that the gradient norm loses from a layer to
          the one before it, the slope of log10 ``weight_grad_norm`` over depth by least squares;
          negative where the norm grows towards the input; NaN with fewer than two layers;
        - ``first_to_last``: norm of the first layer over that of the last;
        - ``effective_depth``: layers whose norm is above 1 % of the largest;
        - ``dead``: layers with a gradient of zeros only, or none at all; ``dead_layers``: their
          names, separated by spaces;
        - ``coherence``: median over layers; ``incoherent``: layers whose coherence is not above
          ``coherence_floor``, what random directions give; ``incoherent_layers``: their names;
          these only if the frame has coherence;
        - ``verdict``: one line in words.

    Raises:
        TypeError: If ``frame`` is not a frame.
        ValueError: If it is empty or lacks a column.

    Example:
        >>> frame = pd.DataFrame({"run": "demo", "layer": list("abc"), "depth": [1, 2, 3],
        ...                       "weight_grad_norm": [1e-8, 1e-5, 1e-2]})
        >>> summary = summarize(frame)
        >>> summary.decades_per_layer.round(6).item(), summary.effective_depth.item()
        (3.0, 1)
        >>> summary.verdict.item()
        'vanishing: the first layer gets 0.0001 % of the last, a factor of 1e+03 per layer'
    """
    keys = _keys(frame, by)
    if not keys:
        return SummaryTable([_summary(frame)])
    rows = []
    for values, run in frame.groupby(keys, sort=False, dropna=False):
        rows.append({**dict(zip(keys, values, strict=True)), **_summary(run)})
    return SummaryTable(rows)


def _keys(frame: pd.DataFrame, by: str | Sequence[str] | None) -> list[str]:
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"frame must be a pandas DataFrame, got {type(frame).__name__}.")
    _check_columns(frame, ["layer", "depth", "weight_grad_norm"])
    if by is None:
        return run_columns(frame)
    keys = [by] if isinstance(by, str) else list(by)
    _check_columns(frame, keys)
    return keys


def _check_columns(frame: pd.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise ValueError(
            f"frame has no column '{missing[0]}': pass what GradientRecorder or gradient_flow gave."
        )
    if frame.empty:
        raise ValueError("frame is empty: nothing was measured.")


def _summary(run: pd.DataFrame) -> dict[str, object]:
    """The columns of one run."""
    layers = _by_layer(run)
    norms = layers["norm"].to_numpy(dtype=float)
    alive = layers[np.isfinite(norms) & (norms > 0)]
    dead = layers[(norms == 0) | (np.isnan(norms) & ~layers["nonfinite"])]
    largest = max(alive["norm"], default=0.0)
    summary: dict[str, object] = {
        "layers": len(layers),
        "decades_per_layer": _slope(alive),
        "first_to_last": _first_to_last(layers),
        "effective_depth": int((norms > _EFFECTIVE * largest).sum()),
        "dead": len(dead),
        "dead_layers": " ".join(dead.index),
    }
    if "coherence" in run.columns:
        known = layers.dropna(subset=["coherence", "floor"])
        incoherent = known[known["coherence"] <= known["floor"]]
        summary["coherence"] = float(layers["coherence"].median())
        summary["incoherent"] = len(incoherent)
        summary["incoherent_layers"] = " ".join(incoherent.index)
    summary["verdict"] = _verdict(layers, summary)
    return summary


def _by_layer(run: pd.DataFrame) -> pd.DataFrame:
    """One row a layer, in order of depth: norm, coherence, floor, and whether it is not finite."""
    if "source" in run.columns and "status" in run.columns:
        # That a head misses what lies above it is no fault.
        run = run[(run["source"] == "main") | (run["status"] != "none")]
    norms = run["weight_grad_norm"].astype(float)
    status = run["status"] if "status" in run.columns else pd.Series("", index=run.index)
    known = pd.DataFrame(
        {
            "layer": run["layer"],
            "depth": run["depth"].astype(float),
            "norm": norms,
            "coherence": run.get("coherence", math.nan),
            "floor": run.get("coherence_floor", 0.0),
            "nonfinite": (status == "nonfinite") | np.isinf(norms),
            "frozen": status == "frozen",
        }
    )
    means = known.groupby("layer", sort=False).agg(
        depth=("depth", "mean"),
        norm=("norm", _geometric_mean),
        coherence=("coherence", "mean"),
        floor=("floor", "mean"),
        nonfinite=("nonfinite", "any"),
        frozen=("frozen", "all"),
    )
    return means[~means["frozen"]].sort_values("depth", kind="stable")


def _geometric_mean(norms: pd.Series[float]) -> float:
    if norms.nunique(dropna=False) == 1:
        return float(norms.iloc[0])
    with np.errstate(divide="ignore"):  # the logarithm of 0 is what it should be
        return float(np.exp(np.log(norms).mean()))


def _slope(layers: pd.DataFrame) -> float:
    """Slope of log10 norm over depth, by least squares."""
    depths = layers["depth"].to_numpy(dtype=float)
    known = ~np.isnan(depths)
    if len(set(depths[known])) < 2:
        return math.nan
    logs = np.log10(layers["norm"].to_numpy(dtype=float))
    return float(np.polyfit(depths[known], logs[known], 1)[0])


def _first_to_last(layers: pd.DataFrame) -> float:
    ran = layers["norm"][layers["depth"].notna()]
    if len(ran) < 2 or not ran.iloc[-1]:
        return math.nan
    return float(ran.iloc[0] / ran.iloc[-1])


def _verdict(layers: pd.DataFrame, summary: dict[str, object]) -> str:
    total = len(layers)
    nonfinite = layers.index[layers["nonfinite"]]
    if len(nonfinite):
        return (
            f"broken: the gradient is not finite in {len(nonfinite)} of {total} layers, "
            f"'{nonfinite[0]}' among them"
        )
    said = []
    dead, incoherent = summary["dead"], summary.get("incoherent", 0)
    if dead:
        first = str(summary["dead_layers"]).split()[0]
        said.append(f"dead: {dead} of {total} layers get no gradient, '{first}' among them")
    said.append(
        _trend(float(str(summary["first_to_last"])), float(str(summary["decades_per_layer"])))
    )
    if incoherent:
        said.append(
            f"shattered: in {incoherent} of {total} layers batches agree no better than random"
        )
    return "; ".join(filter(None, said))


def _trend(ratio: float, slope: float) -> str:
    if math.isnan(ratio):
        return ""
    if ratio < 1 / _MUCH:
        pace = "" if math.isnan(slope) else f", a factor of {10**slope:.2g} per layer"
        return f"vanishing: the first layer gets {100 * ratio:.2g} % of the last{pace}"
    if ratio > _MUCH:
        return f"exploding: the first layer gets {ratio:.2g} times the last"
    return f"steady: the first layer gets {ratio:.2g} times the last"
