"""Where numbers go: a CSV file, or an object of another library's."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sj_shortcut.torch_model.warnings import ShortcutWarning

__all__ = ["Writer", "csv_writer", "writer_for"]

# Takes numbers by name, and the step they are of.
Writer = Callable[[Mapping[str, float], int], None]

_COLUMNS = ("step", "name", "value")


def writer_for(to: Any) -> Writer:
    """How to write to ``to``.

    Args:
        to: A path: a CSV file, or a folder for one, ``shortcuts.csv``. An object with
            ``add_scalar(name, value, step)``, such as TensorBoard's ``SummaryWriter``; with
            ``log_metrics(values, step)``, as Lightning's loggers; with ``log(values, step=step)``,
            as a run of Weights & Biases. Or a function ``(values, step)``.

    Raises:
        TypeError: If it is none of these.
    """
    if isinstance(to, str | os.PathLike):
        return csv_writer(Path(to))
    if hasattr(to, "add_scalar"):
        return lambda values, step: _one_by_one(to.add_scalar, values, step)
    if hasattr(to, "log_metrics"):
        return lambda values, step: to.log_metrics(dict(values), step)
    if hasattr(to, "log"):
        return lambda values, step: to.log(dict(values), step=step)
    if callable(to):
        return lambda values, step: to(dict(values), step)
    raise TypeError(
        "numbers are written to a path, to an object with add_scalar (TensorBoard), log_metrics "
        "(Lightning) or log (Weights & Biases), or by a function (values, step); got "
        f"{type(to).__name__}."
    )


def csv_writer(path: Path) -> Writer:
    """Append rows ``step, name, value`` to a CSV file, which is whole after each call.

    Rows that are there stay. If the first new ones are of a step that the file has already, a
    :class:`ShortcutWarning` says so: two trainings in one file cannot be told apart.

    Args:
        path: The file, or a folder for ``shortcuts.csv``. Either is made if it is not there.

    Raises:
        ValueError: If the file is there and has other columns.
    """
    file = path if path.suffix == ".csv" else path / "shortcuts.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    last = _last_step(file)
    if last is None:
        _append(file, [_COLUMNS])
    before = [-1 if last is None else last]

    def write(values: Mapping[str, float], step: int) -> None:
        if before and step <= before.pop():
            _tell_of_steps_twice(file, step)
        _append(file, [(step, name, repr(value)) for name, value in values.items()])

    return write


def _last_step(file: Path) -> int | None:
    """The last step that a file has numbers of, -1 for none; ``None`` if it has no header."""
    if not file.exists() or not file.stat().st_size:
        return None
    with file.open(encoding="utf-8", newline="") as lines:
        header, *rows = csv.reader(lines)
    if header != list(_COLUMNS):
        raise ValueError(
            f"{file} has other columns than {', '.join(_COLUMNS)}: name a file of its own."
        )
    return max((int(row[0]) for row in rows if row and row[0].isdecimal()), default=-1)


def _tell_of_steps_twice(file: Path, step: int) -> None:
    warnings.warn(
        f"{file} has numbers of step {step} or later already, and these are added to them: if this "
        "training goes on with another, give ShortcutLogger start= (the number of the first step); "
        "if it is a new one, name a file of its own.",
        ShortcutWarning,
        stacklevel=2,
    )


def _append(file: Path, rows: list[tuple[Any, ...]]) -> None:
    with file.open("a", encoding="utf-8", newline="") as lines:
        csv.writer(lines, lineterminator="\n").writerows(rows)


def _one_by_one(add: Callable[..., Any], values: Mapping[str, float], step: int) -> None:
    for name, value in values.items():
        add(name, value, step)
