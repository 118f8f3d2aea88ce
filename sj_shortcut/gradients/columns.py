"""The columns of a gradient frame: one entry each, read by all that measures, sums up and draws.

A new measure is one entry in :data:`COLUMNS` and one function of its name that fills it, in
``weights.py``, ``spikes.py`` or ``coherence.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

__all__ = [
    "COLUMNS",
    "Column",
    "Row",
    "by_depth",
    "check_tags",
    "depth_of",
    "label_of",
    "make_frame",
    "names_of",
    "run_columns",
    "scale_of",
    "why_missing",
]

Row = dict[str, Any]
Scale = Literal["linear", "log"]
Kind = Literal["run", "place", "fact", "weights", "spikes", "batches", "sources"]

NAN = float("nan")
# The key of ``frame.attrs`` under which a frame keeps the names of the user's tags.
TAGS = "sj_shortcut.tags"


@dataclass(frozen=True)
class Column:
    """What there is to know of a column.

    Attributes:
        name: Its name in a frame.
        kind: ``"run"`` columns tell one measurement from another, ``"place"`` columns tell where
            in the network and in time a row was measured, ``"fact"`` columns are words and counts
            that come with it. The others are measured numbers, of a layer's ``"weights"``, of the
            ``"spikes"`` it causes, over several ``"batches"``, or of the ``"sources"`` of its
            gradient.
        label: What an axis calls it; by default its name in words.
        scale: Whether an axis or a map of it is ``"linear"`` or ``"log"``.
        missing: Where a value is missing, to end the sentence "it is missing where ...".
        always: Whether frames have it even where nothing was measured for it.
        per_loss: Whether it grows in proportion with the loss, as gradients do.
        zero_unreached: Whether it is 0, not missing, for a source that does not reach a layer.
    """

    name: str
    kind: Kind
    label: str = ""
    scale: Scale = "linear"
    missing: str = ""
    always: bool = True
    per_loss: bool = False
    zero_unreached: bool = False

    @property
    def measured(self) -> bool:
        """Whether it is a number that was measured."""
        return self.kind in ("weights", "spikes", "batches", "sources")


_IN_ORDER = "layer, in order of execution"
_NO_GRADIENT = "no gradient arrived"
_UNSEEN = "the layer feeds no spiking layer, or nothing was measured there"

# In the order in which a frame has them, after the user's tags.
COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        Column("step", "run", always=False),
        Column("rank", "run", always=False),
        Column("layer", "place", _IN_ORDER),
        Column("depth", "place", _IN_ORDER, missing="the layer never ran"),
        Column("module", "fact"),
        Column("weights", "fact"),
        Column("status", "fact"),
        Column(
            "weight_grad_norm",
            "weights",
            "gradient norm",
            "log",
            missing=_NO_GRADIENT,
            per_loss=True,
            zero_unreached=True,
        ),
        Column(
            "weight_grad_rms",
            "weights",
            "gradient RMS",
            "log",
            missing=_NO_GRADIENT,
            zero_unreached=True,
        ),
        Column("weight_norm", "weights", "weight norm"),
        Column(
            "grad_to_weight",
            "weights",
            "gradient norm / weight norm",
            "log",
            missing="no gradient arrived, or all weights are 0",
            zero_unreached=True,
        ),
        Column("zero_fraction", "weights", "share of zero gradients", missing=_NO_GRADIENT),
        Column("neuron", "fact"),
        Column(
            "output_grad_norm",
            "spikes",
            "gradient norm at spikes",
            "log",
            missing="no gradient arrived at spikes, or the layer feeds no spiking layer",
            per_loss=True,
        ),
        Column(
            "alive",
            "spikes",
            "share of potentials alive",
            missing="neurons do not show their potentials, or the layer feeds no spiking layer",
        ),
        Column("firing_rate", "spikes", "firing rate", missing=_UNSEEN),
        Column("t", "place", "time step", always=False),
        Column("source", "run", always=False),
        Column(
            "share",
            "sources",
            "share of gradient",
            missing="the whole gradient of the layer is 0 or not finite",
            always=False,
        ),
        Column("batches", "fact", always=False),
        Column(
            "coherence",
            "batches",
            "gradient coherence",
            missing="fewer than two batches gave a gradient",
            always=False,
        ),
        Column(
            "coherence_floor",
            "batches",
            "coherence of random directions",
            missing="fewer than two batches gave a gradient",
            always=False,
        ),
        Column(
            "snr",
            "batches",
            "signal-to-noise ratio",
            "log",
            missing="fewer than two batches gave a gradient",
            always=False,
        ),
    )
}


def names_of(*kinds: Kind) -> tuple[str, ...]:
    """Names of the columns of these kinds, in the order of a frame."""
    return tuple(column.name for column in COLUMNS.values() if column.kind in kinds)


def label_of(name: str) -> str:
    """What an axis calls a column, be it one of ours or not."""
    known = COLUMNS.get(name)
    return (known.label if known else "") or name.replace("_", " ")


def scale_of(name: str, otherwise: Scale) -> Scale:
    """On which scale a column is best drawn, and ``otherwise`` for one that is not ours."""
    return COLUMNS[name].scale if name in COLUMNS else otherwise


def why_missing(name: str) -> str:
    """The end of a sentence that says where a column has no value; empty if that is unknown."""
    known = COLUMNS.get(name)
    return f", which is missing where {known.missing}" if known and known.missing else ""


# Frames.


def make_frame(rows: Sequence[Row], tags: Iterable[str]) -> pd.DataFrame:
    """A tidy frame that knows its tags: they come first, then the columns in their order.

    Args:
        rows: The rows. What no column is named after is left out.
        tags: Names of the user's own columns.
    """
    tags = list(tags)
    columns = [
        column.name
        for column in COLUMNS.values()
        if column.always or any(column.name in row for row in rows)
    ]
    frame = pd.DataFrame(list(rows), columns=[*tags, *columns])
    frame.attrs[TAGS] = tags
    return frame


def check_tags(tags: Mapping[str, Any]) -> None:
    """Refuse tags that would overwrite a column.

    Raises:
        ValueError: If a tag has the name of a column.
    """
    taken = [name for name in tags if name in COLUMNS]
    if taken:
        raise ValueError(
            f"the tag '{taken[0]}' has the name of a column that is measured: call it another name."
        )


def depth_of(name: str, order: list[str]) -> float:
    """Place of a layer in the order of execution, from 1; NaN if it did not run."""
    return order.index(name) + 1 if name in order else NAN


def by_depth(row: Row) -> float:
    """Sorting key of rows: depth, with layers that did not run last."""
    depth = float(row["depth"])
    return float("inf") if depth != depth else depth


# Runs.


def run_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that tell the runs in a frame apart.

    These are ``step``, ``rank``, ``source`` and the tags that the frame knows of. It does not know
    those that the user added later, nor any after a CSV file or a ``pd.concat`` of frames with
    different tags, and to be told from them are columns that the user computed from measured ones.
    So of the other columns as many are taken as it needs for no run to have two rows of one layer
    and time step, those first whose values hold for most layers: a tag holds for a whole run, a
    computed number mostly for one layer. Columns that split no run further come with them.

    Args:
        frame: A frame with the columns ``layer`` and ``depth``.

    Returns:
        Their names, in the order of the frame.
    """
    known = {*names_of("run"), *frame.attrs.get(TAGS, ())}
    keys = [name for name in frame.columns if name in known]
    others = [name for name in frame.columns if name not in known and name not in COLUMNS]
    runs = _numbered(frame, keys)
    twice = _rows_too_many(frame, runs)
    while twice:
        split = {name: _split(frame, runs, name) for name in others}
        useful = [name for name in split if _rows_too_many(frame, split[name]) < twice]
        if not useful:
            break
        best = max(useful, key=lambda name: _layers_a_run(frame, split[name]))
        runs, twice = split[best], _rows_too_many(frame, split[best])
        keys.append(best)
        others.remove(best)
    count = runs.nunique()
    keys += [name for name in others if _split(frame, runs, name).nunique() == count]
    return [name for name in frame.columns if name in keys]


def _numbered(frame: pd.DataFrame, keys: list[str]) -> pd.Series[int]:
    """The number of the run that each row belongs to."""
    if not keys:
        return pd.Series(0, index=range(len(frame)))
    return frame.groupby(keys, sort=False, dropna=False).ngroup().reset_index(drop=True)


def _split(frame: pd.DataFrame, runs: pd.Series[int], name: str) -> pd.Series[int]:
    """The numbers of the runs if this column tells them apart as well."""
    values = frame[name].reset_index(drop=True)
    return _numbered(pd.DataFrame({"run": runs, "value": values}), ["run", "value"])


def _rows_too_many(frame: pd.DataFrame, runs: pd.Series[int]) -> int:
    """How many rows stand where their run has another: at one layer, depth and time step."""
    rows = pd.DataFrame({"run": runs})
    for name in {"layer", "depth", "t"} & set(frame.columns):
        rows[name] = frame[name].reset_index(drop=True)
    of_layer = rows.drop(columns="depth").duplicated()
    # Runs of different models have layers of other names at the same depths.
    of_depth = rows.drop(columns="layer").duplicated() & rows["depth"].notna()
    return int((of_layer | of_depth).sum())


def _layers_a_run(frame: pd.DataFrame, runs: pd.Series[int]) -> float:
    return float(frame["layer"].reset_index(drop=True).groupby(runs).nunique().mean())
