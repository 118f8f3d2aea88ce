"""The columns of a frame of spikes: what they are called, and which of them add up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

__all__ = [
    "COUNTS",
    "LABELS",
    "SHARES",
    "check_frame",
    "check_tags",
    "make_frame",
    "tags_of",
    "why_missing",
]

# In the order in which a frame has them, after the user's tags, each with what an axis calls it.
LABELS: dict[str, str] = {
    "layer": "layer, in order of execution",
    "depth": "layer, in order of execution",
    "module": "module",
    "kind": "kind",
    "samples": "samples",
    "neurons": "neurons",
    "steps": "time steps",
    "firing_rate": "firing rate",
    "spikes": "spikes a sample",
    "silent": "share of silent neurons",
    "saturated": "share of saturated neurons",
    "synops": "SynOps a sample",
    "macs": "MACs a sample",
    "energy_pj": "energy a sample / pJ",
}
# Numbers of a sample, which add up over layers.
COUNTS = ("spikes", "synops", "macs", "energy_pj")
SHARES = ("firing_rate", "silent", "saturated")
_MISSING = {
    "neurons": "the layer is none of neurons, or its axes could not be seen",
    "steps": "the layer is none of neurons, or its axes could not be seen",
    "firing_rate": "the layer is none of neurons",
    "spikes": "the layer is none of neurons",
    "silent": "the layer is none of neurons, or its axes could not be seen",
    "saturated": "the layer is none of neurons, or its axes could not be seen",
    "synops": "the layer multiplies nothing, as neurons",
    "macs": "the layer multiplies nothing, as neurons",
    "energy_pj": "the layer multiplies nothing, or the network is silent",
}
# The key of ``frame.attrs`` under which a frame keeps the names of the user's tags.
TAGS = "sj_shortcut.tags"


def why_missing(column: str) -> str:
    """The end of a sentence that says where a column has no value; empty if that is unknown."""
    return f", which is missing where {_MISSING[column]}" if column in _MISSING else ""


def make_frame(rows: Sequence[Mapping[str, Any]], tags: Mapping[str, Any]) -> pd.DataFrame:
    """A tidy frame of rows: tags first, then the columns in their order.

    Args:
        rows: The rows; all have the same keys.
        tags: Columns of the user's own.
    """
    columns = [name for name in LABELS if name != "energy_pj" or any(name in row for row in rows)]
    frame = pd.DataFrame([{**tags, **row} for row in rows], columns=[*tags, *columns])
    frame.attrs[TAGS] = list(tags)
    return frame


def check_tags(tags: Iterable[str]) -> None:
    """Refuse tags that would overwrite a column.

    Raises:
        ValueError: If a tag has the name of a column.
    """
    for name in tags:
        if name in LABELS:
            raise ValueError(
                f"the tag '{name}' has the name of a column that is measured: call it another name."
            )


def tags_of(frame: pd.DataFrame) -> list[str]:
    """The columns that are none of a report's, which tell its runs apart."""
    return [name for name in frame.columns if name not in LABELS]


def check_frame(frame: object, name: str) -> None:
    """Refuse what is no report of one run.

    Args:
        frame: What was given.
        name: For which argument.

    Raises:
        TypeError: If it is no DataFrame.
        ValueError: If it is no report, is empty, or holds several runs.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"{name} must be a frame of spike_report, got {type(frame).__name__}.")
    missing = [c for c in LABELS if c not in frame.columns and c != "energy_pj"]
    if missing:
        raise ValueError(
            f"{name} has no column {', '.join(map(repr, missing))}: pass a frame of spike_report."
        )
    if frame.empty:
        raise ValueError(f"{name} is empty.")
    if frame["layer"].duplicated().any():
        hint = ", ".join(map(repr, tags_of(frame))) or "none"
        raise ValueError(
            f"{name} has several rows of one layer: it holds several runs. Choose one of them by "
            f"its tags ({hint})."
        )
