"""The language of ``at=``: which of a model's points get a head."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any

from torch import nn

from sj_shortcut.places.point import (
    CLASSIFIER_FEATURE,
    NO_ONE_DEPTH,
    ShortcutPoint,
    ShortcutPoints,
)
from sj_shortcut.torch_model import did_you_mean

__all__ = ["AUTOMATIC", "At", "choose_points"]

# Spiking layers or blocks from one head of at="auto" to the next, at most.
LONGEST_STRETCH = 3

At = str | int | Sequence[str] | Callable[[str, nn.Module], bool]


def choose_points(points: ShortcutPoints, model: nn.Module, at: At) -> list[ShortcutPoint]:
    """Pick the points that ``at`` of :func:`~sj_shortcut.wrap_with_shortcuts` means.

    Args:
        points: The rows of :func:`shortcut_points`.
        model: The model they belong to.
        at: See :func:`~sj_shortcut.wrap_with_shortcuts`.

    Returns:
        The chosen points, in order of depth, none twice.

    Raises:
        TypeError: If ``at`` is of no known kind.
        ValueError: If it chooses nothing, or something unusable.
    """
    if isinstance(at, str) and at in AUTOMATIC:
        return AUTOMATIC[at](points)
    if isinstance(at, bool):
        raise TypeError('at must not be a bool; for a head at every spiking layer say at="all".')
    if isinstance(at, Integral):
        return _evenly(_path(points), int(at))
    if callable(at) and not isinstance(at, type | nn.Module):
        named = [p for p in points if at(p.name, model.get_submodule(p.name))]
        return _usable_of(named, "the predicate given as at=")
    patterns = [at] if isinstance(at, str) else _patterns(at)
    chosen = {name for pattern in patterns for name in _match(points, model, pattern)}
    return [point for point in points if point.name in chosen]


def _path(points: ShortcutPoints) -> list[ShortcutPoint]:
    path = [point for point in points if point.on_path]
    if path:
        return path
    reasons = "; ".join(f"'{p.name}' ({p.reason})" for p in points if p.reason)
    if not reasons:
        raise ValueError(
            "the model holds no spiking neuron to put a shortcut head on. SpikingJelly's neurons "
            "are found by themselves; name your own classes with neuron_types=(MyNeuron,)."
        )
    if points.mixed:
        raise ValueError(f"which axis is which cannot be seen, as {points.mixed}")
    raise ValueError(
        'at="auto", "stages", "all" and a number of heads find no spiking layer to put one on. '
        f"Looked at: {reasons}.{_advice(points)}"
    )


def _advice(points: ShortcutPoints) -> str:
    """What to do where no point is left to choose from."""
    if not points.looked:
        return " The model was not seen running: pass example_input=, a batch that it takes."
    if any(point.usable for point in points):
        return " Name a point with at=[...]; shortcut_points(model) lists them."
    if any(NO_ONE_DEPTH in point.reason for point in points):
        return " Make a spiking layer for each depth: a module that is shared can take no head."
    return ""


def _stage_ends(points: ShortcutPoints) -> list[ShortcutPoint]:
    """Last point of each stage but the classifier's, which ends in the classifier's own feature.

    A network of one stage would be left without any head: it gets its middle point.
    """
    path = _path(points)
    ends = {p.stage: p for p in points if p.on_path or p.reason == CLASSIFIER_FEATURE}
    return [p for p in ends.values() if p.on_path] or [path[len(path) // 2]]


def _auto(points: ShortcutPoints) -> list[ShortcutPoint]:
    """Stage ends, and as few more as leave no longer stretch than ``LONGEST_STRETCH``, evenly."""
    path = _path(points)
    ends = [path.index(point) + 1 for point in _stage_ends(points)]
    chosen = []
    # Behind the path comes the classifier's own feature, which is fed by the output's loss.
    for start, end in zip([0, *ends], [*ends, len(path) + 1], strict=True):
        pieces = math.ceil((end - start) / LONGEST_STRETCH)
        chosen += [start + round((end - start) * (i + 1) / pieces) for i in range(pieces)]
    return [path[i - 1] for i in chosen[:-1]]


def _evenly(path: list[ShortcutPoint], count: int) -> list[ShortcutPoint]:
    if not 1 <= count <= len(path):
        raise ValueError(
            f"at={count} heads: the model has {len(path)} points to choose from "
            "(shortcut_points(model) lists them); give a number from 1 to that."
        )
    gap = (len(path) + 1) / (count + 1)
    return [path[round(gap * (i + 1)) - 1] for i in range(count)]


AUTOMATIC: dict[str, Callable[[ShortcutPoints], list[ShortcutPoint]]] = {
    "auto": _auto,
    "stages": _stage_ends,
    "all": _path,
}


def _patterns(at: Any) -> list[str]:
    if not isinstance(at, Iterable) or isinstance(at, bytes | type | nn.Module):
        raise TypeError(
            'at must be "auto", "stages", "all", a number of heads, dotted names or patterns, or a '
            f"predicate (name, module) -> bool; got {_what(at)}."
        )
    patterns = list(at)
    if not patterns:
        raise ValueError("at is empty: name at least one point, see shortcut_points(model).")
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"at must hold dotted names as strings, got {_what(pattern)}.")
    return patterns


def _what(thing: Any) -> str:
    if isinstance(thing, type):
        return f"the class {thing.__name__}"
    if isinstance(thing, nn.Module):
        return f"the module {type(thing).__name__}: give its dotted name"
    return type(thing).__name__


def _match(points: ShortcutPoints, model: nn.Module, pattern: str) -> list[str]:
    if any(sign in pattern for sign in "*?["):
        rule = _as_regex(pattern)
        named = [point for point in points if rule.fullmatch(point.name)]
        if not named:
            raise ValueError(_no_match(points, model, pattern))
        return [point.name for point in _usable_of(named, f"at='{pattern}'")]
    for point in points:
        if point.name == pattern:
            if not point.usable:
                raise ValueError(
                    f"no head can sit at '{pattern}' ({point.module}): {point.reason}."
                )
            return [pattern]
    raise ValueError(_no_match(points, model, pattern))


def _as_regex(pattern: str) -> re.Pattern[str]:
    """``*`` and ``?`` stay within one level of the dotted name, ``**`` crosses levels."""
    parts = re.split(r"(\*\*|\*|\?|\[[^]]+\])", pattern)
    signs = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    # Split at its signs, every second part is one; a set such as [!ab] reads as in a shell.
    parts[1::2] = [signs.get(sign, sign.replace("[!", "[^")) for sign in parts[1::2]]
    parts[::2] = map(re.escape, parts[::2])
    try:
        return re.compile("".join(parts))
    except re.error as error:
        raise ValueError(f"at='{pattern}' is no pattern: {error}.") from error


def _no_match(points: ShortcutPoints, model: nn.Module, pattern: str) -> str:
    known = [point.name for point in points]
    module = dict(model.named_modules(remove_duplicate=False)).get(pattern)
    if module is not None:
        what = "the model itself" if pattern == "" else f"'{pattern}' ({type(module).__name__})"
        for point in points:
            if point.reason and model.get_submodule(point.name) is module:
                return f"no head can sit at {what}: {point.reason}."
        return (
            f"no head can sit at {what}: heads sit on spiking neurons and on the blocks and chains "
            "that hold them. shortcut_points(model) lists them."
        )
    hint = did_you_mean(pattern, known)
    return f"at='{pattern}' matches no point of the model.{hint} shortcut_points(model) lists them."


def _usable_of(named: list[ShortcutPoint], what: str) -> list[ShortcutPoint]:
    usable = [point for point in named if point.usable]
    if usable:
        return usable
    if not named:
        raise ValueError(f"{what} chose no point; shortcut_points(model) lists them.")
    reasons = "; ".join(f"'{point.name}': {point.reason}" for point in named)
    raise ValueError(f"{what} chose only points where no head can sit: {reasons}.")
