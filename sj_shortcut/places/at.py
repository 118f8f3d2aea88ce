"""Where a shortcut head can sit: list the points of a model, explain them, choose among them."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any

import pandas as pd
from torch import nn

from sj_shortcut.places.example_pass import run_probe
from sj_shortcut.places.read_modules import (
    CLASSIFIER_FEATURE,
    WEIGHT_LAYERS,
    Survey,
    infer_num_classes,
)

# Spiking layers or blocks from one head of at="auto" to the next, at most.
LONGEST_STRETCH = 3

At = str | int | Sequence[str] | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class ShortcutPoint:
    """One place of a model where a shortcut head can, or cannot, sit.

    Attributes:
        name: Dotted path of the module, as ``model.get_submodule`` takes it.
        module: The module's class name.
        channels: Channels of its output; ``None`` where the modules do not tell.
        stage: Number of the stage of width or resolution it belongs to, from 1.
        usable: Whether a head can sit here.
        on_path: Whether ``at="auto"``, ``"stages"``, ``"all"`` and a number choose from it: the
            outermost spiking layers and blocks but the last, not the parts of a block.
        reason: Why no head can sit here, or why the automatic choices leave it out.
        shape: Output shape seen with ``example_input``: ``[T, N, C, ...]`` in step mode 'm',
            ``[N, C, ...]`` in step mode 's'.
        spatial: Whether its output has space behind the channels. Read off the modules: whether
            the last layer with weights before it is a convolution.
    """

    name: str
    module: str
    channels: int | None
    stage: int
    usable: bool
    on_path: bool
    reason: str = ""
    shape: tuple[int, ...] | None = None
    spatial: bool = True


class ShortcutPoints(list[ShortcutPoint]):
    """A list of :class:`ShortcutPoint` that prints as a table.

    Attributes:
        num_classes: Class count as far as the modules or the example's output tell.
    """

    num_classes: int | None = None

    def __repr__(self) -> str:
        if not self:
            return "ShortcutPoints: none (no spiking neuron found)"
        frame = pd.DataFrame([asdict(point) for point in self]).astype(object)
        frame = frame.drop(columns="spatial")
        frame["channels"] = [point.channels or "?" for point in self]
        for column in ("usable", "on_path"):
            frame[column] = frame[column].map({True: "yes", False: "-"})
        if all(point.shape is None for point in self):
            frame = frame.drop(columns="shape")
        return str(frame.to_string(index=False, max_colwidth=None))

    __str__ = __repr__


def shortcut_points(
    model: nn.Module, example_input: Any = None, *, neuron_types: tuple[type, ...] = ()
) -> ShortcutPoints:
    """List the places of a model where a shortcut head can sit.

    Without ``example_input`` the rows follow the order of definition, and channels and stages are
    read off the modules; with it, one forward pass in eval mode shows order and shapes as they
    are. The model stays exactly as it was.

    Args:
        model: Any SpikingJelly model.
        example_input: A batch as the model's forward takes it (a tuple for several arguments).
        neuron_types: Your own spiking neuron classes, if they do not derive from SpikingJelly's.

    Returns:
        The rows; ``print`` shows them as a table. Empty if the model has no spiking neuron.

    Raises:
        TypeError: If ``model`` is not a module.
        ValueError: If the model cannot run on ``example_input``.

    Example:
        >>> from torch import nn
        >>> from spikingjelly.activation_based import layer, neuron
        >>> model = nn.Sequential(layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 4),
        ...                       neuron.LIFNode(), layer.Linear(4, 2))
        >>> [(point.name, point.channels) for point in shortcut_points(model)]
        [('1', 16), ('3', 4)]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    _check_types(neuron_types)
    survey = Survey(model, neuron_types)
    num_classes = infer_num_classes(model, neuron_types)
    if example_input is not None:
        sightings, num_classes = run_probe(model, example_input, WEIGHT_LAYERS)
        survey.correct(sightings)
    stages = survey.conclude()
    points = ShortcutPoints(
        ShortcutPoint(
            name=draft.name,
            module=type(draft.module).__name__,
            channels=draft.width,
            stage=stage,
            usable=not draft.why_not,
            on_path=draft.on_path,
            reason=draft.why_not or draft.note,
            shape=draft.shape,
            spatial=draft.spatial,
        )
        for draft, stage in zip(survey.drafts, stages, strict=True)
    )
    points.num_classes = num_classes
    return points


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


def _path(points: Iterable[ShortcutPoint]) -> list[ShortcutPoint]:
    path = [point for point in points if point.on_path]
    if path:
        return path
    reasons = "; ".join(f"'{p.name}' ({p.reason})" for p in points if p.reason)
    if not reasons:
        raise ValueError(
            "the model holds no spiking neuron to put a shortcut head on. SpikingJelly's neurons "
            "are found by themselves; name your own classes with neuron_types=(MyNeuron,)."
        )
    raise ValueError(
        'at="auto", "stages", "all" and a number of heads find no spiking layer to put one on. '
        f"Looked at: {reasons}. Name a point with at=[...]; shortcut_points(model) lists them."
    )


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


def _check_types(neuron_types: Any) -> None:
    if isinstance(neuron_types, tuple) and all(isinstance(t, type) for t in neuron_types):
        return
    raise TypeError(
        "neuron_types must be a tuple of classes, such as neuron_types=(MyNeuron,); got "
        f"{neuron_types!r}."
    )


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
    near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.5)
    hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
    return f"at='{pattern}' matches no point of the model.{hint} shortcut_points(model) lists them."


def _usable_of(named: list[ShortcutPoint], what: str) -> list[ShortcutPoint]:
    usable = [point for point in named if point.usable]
    if usable:
        return usable
    if not named:
        raise ValueError(f"{what} chose no point; shortcut_points(model) lists them.")
    reasons = "; ".join(f"'{point.name}': {point.reason}" for point in named)
    raise ValueError(f"{what} chose only points where no head can sit: {reasons}.")
