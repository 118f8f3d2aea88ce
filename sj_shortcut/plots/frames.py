"""What a plot asks of its frame, and how its rows are grouped and placed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from sj_shortcut.gradients.columns import names_of, run_columns, why_missing
from sj_shortcut.plots.ticks import short

__all__ = [
    "check",
    "check_single",
    "check_whole",
    "groups",
    "layer_order",
    "no_number",
    "optional_hue",
    "places_of",
]


def check(frame: pd.DataFrame, columns: Iterable[str], hint: str = "") -> None:
    """Refuse what cannot be drawn.

    Args:
        frame: The frame.
        columns: Names of the columns that are needed.
        hint: What to say where one is missing, with a space before it.

    Raises:
        TypeError: If ``frame`` is not a DataFrame.
        ValueError: If it is empty or lacks a column.
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"frame must be a pandas DataFrame, got {type(frame).__name__}.")
    missing = [f"'{column}'" for column in columns if column not in frame.columns]
    if missing:
        present = ", ".join(map(str, frame.columns)) or "none"
        raise ValueError(
            f"the frame has no column {' and '.join(dict.fromkeys(missing))}; its columns are: "
            f"{present}.{hint}"
        )
    if frame.empty:
        raise ValueError("the frame is empty: there is nothing to draw.")


def no_number(column: str, hint: str = "") -> ValueError:
    """The error for a column without a single number, with the reason where it is known."""
    return ValueError(f"no row of the frame has a number in '{column}'{why_missing(column)}.{hint}")


def optional_hue(frame: Any, hue: str | None) -> str | None:
    """The default hue is one that a frame need not have."""
    return None if hue == "run" and hue not in getattr(frame, "columns", ()) else hue


def check_whole(frame: pd.DataFrame, asked: Iterable[str | None]) -> None:
    """Refuse parts of a gradient, which must not be drawn as if they were several gradients.

    Raises:
        ValueError: If the frame is split by source and the source was not asked for.
    """
    if "source" in frame and "source" not in asked and frame["source"].nunique() > 1:
        raise ValueError(
            "the frame is split by source, and its rows are parts of gradients: draw it with "
            'plot_gradient_sources, tell the parts apart by hue="source", or choose one of them, '
            'as in frame[frame.source == "main"].'
        )


def check_single(frame: pd.DataFrame, keys: list[str], column: str) -> None:
    """Refuse several values in one place.

    Raises:
        ValueError: If ``column`` has several rows with the same ``keys``.
    """
    twice = frame[frame.duplicated(keys, keep=False)]
    if twice.empty:
        return
    first = twice[(twice[keys] == twice[keys].iloc[0]).all(axis=1)]
    tags = [
        name
        for name in (*run_columns(frame), *names_of("place"))
        if name in frame.columns and first[name].nunique() > 1
    ]
    where = ", ".join(f"{key} {first[key].tolist()[0]!r}" for key in keys)
    which = f" They differ in {', '.join(map(str, tags))}: choose one of each." if tags else ""
    raise ValueError(f"the frame has {len(first)} values of '{column}' for {where}.{which}")


def groups(frame: pd.DataFrame, by: str | None) -> Iterable[tuple[Any, pd.DataFrame]]:
    """The rows of each level of a column, numbers in order; all rows if there is no column."""
    if by is None:
        return [(None, frame)]
    levels = frame[by].dropna().unique().tolist()
    if pd.api.types.is_numeric_dtype(frame[by]):
        levels = sorted(levels)
    return [(level, frame[frame[by] == level]) for level in levels]


def layer_order(frame: pd.DataFrame) -> list[str]:
    """The layers in the order of execution."""
    order = frame.groupby("layer", sort=False)["depth"].min().sort_values(kind="stable")
    return order.index.tolist()


def places_of(frame: pd.DataFrame, x: str) -> tuple[pd.Series[Any], dict[float, str]]:
    """Where each row stands along the axis, and the names of these places."""
    if x == "layer":
        order = layer_order(frame)
        ranks = {layer: place for place, layer in enumerate(order)}
        return frame["layer"].map(ranks), dict(enumerate(map(short, order)))
    named = frame.dropna(subset=["depth"]).groupby("depth")["layer"]
    depths = [float(depth) for depth in named.first().index]
    if (named.nunique() == 1).all():
        return frame["depth"], dict(zip(depths, map(short, named.first()), strict=True))
    return frame["depth"], {depth: f"{depth:g}" for depth in depths}
