"""List the places of a model where a head can sit, from its modules and a look at it running."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from sj_shortcut.places.at import choose_points
from sj_shortcut.places.classes import read_num_classes
from sj_shortcut.places.first_look import first_look
from sj_shortcut.places.layout import Layout, check_layout, layout_for, parse_layout
from sj_shortcut.places.looking import Look
from sj_shortcut.places.point import (
    CLASSIFIER_FEATURE,
    OTHER_LOGITS,
    ShortcutPoint,
    ShortcutPoints,
)
from sj_shortcut.places.read_modules import Place, read_modules
from sj_shortcut.torch_model import require_module

__all__ = ["LayoutArgument", "list_points", "shortcut_points"]

LayoutArgument = str | Mapping[str, str] | None


def shortcut_points(
    model: nn.Module,
    example_input: Any = None,
    *,
    neuron_types: tuple[type, ...] = (),
    layout: LayoutArgument = None,
    full: bool = False,
) -> ShortcutPoints:
    """List the places of a model where a shortcut head can sit.

    One forward pass in eval mode shows order, shapes and axes, on ``example_input`` or else on a
    made-up batch that the model takes. Where it takes none, the rows follow the order of
    definition, and channels and stages are read off the modules. The model stays as it was.

    Args:
        model: Any spiking model.
        example_input: A batch as the model's forward takes it (a tuple for several arguments).
        neuron_types: Your own spiking neuron classes, if they do not derive from SpikingJelly's.
        layout: Axes of the features, where they cannot be seen; see
            :func:`~sj_shortcut.wrap_with_shortcuts`.
        full: Whether to print a row for each of several blocks alike.

    Returns:
        The rows; ``print`` shows them as a table. Empty if the model has no spiking neuron.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model cannot run on ``example_input``.

    Example:
        >>> from torch import nn
        >>> from spikingjelly.activation_based import layer, neuron
        >>> model = nn.Sequential(layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 4),
        ...                       neuron.LIFNode(), layer.Linear(4, 2))
        >>> [(point.name, point.channels) for point in shortcut_points(model)]
        [('1', 16), ('3', 4)]
    """
    points, _ = list_points(model, example_input, neuron_types, layout)
    points.full, points.of_example = full, example_input is not None
    return points


def list_points(
    model: nn.Module,
    example_input: Any = None,
    neuron_types: tuple[type, ...] = (),
    layout: LayoutArgument = None,
    num_classes: int | None = None,
) -> tuple[ShortcutPoints, Look | None]:
    """The rows of :func:`shortcut_points`, and the look that they rest on, if there was one."""
    require_module(model)
    _check_types(neuron_types)
    check_layout(layout)
    root, weights = read_modules(model, neuron_types)
    places = [p for p in root.all_places() if p is not root and not p.is_list]
    names = [place.name for place in places]
    look = None
    if places:
        look = first_look(model, example_input, names, neuron_types, num_classes)
    drafts = {place.name: _draft(place, look, layout, example_input is None) for place in places}
    order = names if look is None else _in_order(names, look)
    _settle_path(root, drafts, order, weights if look is None else look.weights)
    points = ShortcutPoints(drafts[name].point for name in order)
    points.num_classes = read_num_classes(model, neuron_types)
    if look is not None:
        points.num_classes, points.refusal = look.num_classes, look.refusal
        points.mixed, points.looked = look.mixed, True
    return _with_auto(points, model), look


@dataclass(eq=False)
class _Draft:
    """A point while it is still being settled.

    Attributes:
        point: What is known so far.
        place: The place it describes.
        weights_before: Layers with weights that run before it starts.
        resolution: Anything that changes when the resolution of its output does.
        weights_after: Layers with weights that run after it ended, where that was seen.
        absent: Whether its parts stand for it: it was not called, or gave no tensor.
        aside: Whether the main output does not depend on it.
    """

    point: ShortcutPoint
    place: Place
    weights_before: int
    resolution: Any
    weights_after: int = 0
    absent: bool = False
    aside: bool = False


def _in_order(names: Sequence[str], look: Look) -> list[str]:
    ran = {name: place for place, name in enumerate(look.order)}
    return sorted(names, key=lambda name: ran.get(name, len(ran)))


def _draft(place: Place, look: Look | None, layout: LayoutArgument, made_up: bool) -> _Draft:
    point = ShortcutPoint(
        name=place.name,
        module=type(place.module).__name__,
        channels=place.width,
        stage=1,
        usable=True,
        on_path=False,
        spatial=place.spatial,
    )
    draft = _Draft(point, place, place.weights_before, place.resolution)
    if look is None:
        reason = ""
        if place.aliases:
            reason = f"one module shared by {' and '.join(place.aliases)}"
        elif place.width is None:
            reason = "channels unknown from the modules: pass example_input="
        _refuse(draft, reason)
        return draft
    shape = look.shapes.get(place.name)
    if shape is None or len(shape) < 2:
        draft.absent = True
        ran = look.calls.get(place.name, 0)
        what = "tensor" if shape is None else f"feature first, but a tensor {list(shape)}"
        kind = look.kinds.get(place.name, "")
        shared = f"one module shared by {' and '.join(place.aliases)}" if place.aliases else ""
        missing = shared or "not called in forward, or by .forward(), which runs no hooks"
        _refuse(draft, f"its output is a {kind} without a {what}" if ran else missing)
        return draft
    draft.weights_before = look.weights_before[place.name]
    draft.weights_after = look.weights_from(place.name)
    draft.aside = not look.leads_to_output(place.name)
    try:
        _take_layout(draft, shape, _known_layout(place.name, shape, look, layout))
    except ValueError:  # what the user says does not fit
        if not made_up:
            raise
        _await_layout(draft, shape, look.layouts.get(place.name))
    if place.name in look.repeated:
        draft.absent = True
        _refuse(draft, look.repeated[place.name])
    if not look.leads_to_logits(place.name):
        _refuse(draft, "the model's output does not depend on it: on a side branch")
    elif draft.aside and draft.point.usable:
        draft.point = replace(draft.point, reason=OTHER_LOGITS)
    return draft


def _known_layout(
    name: str, shape: tuple[int, ...], look: Look, layout: LayoutArgument
) -> Layout | None:
    seen, text = look.layouts.get(name), layout_for(layout, name)
    if text is None:
        return seen
    return parse_layout(text, len(shape), seen.folded or None if seen is not None else None)


def _take_layout(draft: _Draft, shape: tuple[int, ...], layout: Layout | None) -> None:
    draft.point = replace(draft.point, shape=shape, layout=layout, channels=None)
    if layout is None:
        axes = "x".join(map(str, shape))
        _refuse(draft, f"which axis of its output {axes} is which could not be seen: pass layout=")
        return
    draft.resolution = layout.positions(shape)
    draft.point = replace(
        draft.point, channels=layout.channels(shape), spatial=bool(draft.resolution)
    )


def _await_layout(draft: _Draft, shape: tuple[int, ...], seen: Layout | None) -> None:
    """Leave the axes to the user's first batch, which may have others than a made-up one."""
    place = draft.place
    width, space = place.width, place.spatial
    if seen is not None:
        width, draft.resolution = seen.channels(shape), seen.positions(shape)
        space = bool(draft.resolution)
    draft.point = replace(draft.point, shape=shape, channels=width, spatial=space)
    if width is None:
        _refuse(draft, "channels unknown where layout= does not fit: pass example_input=")


def _refuse(draft: _Draft, reason: str) -> None:
    if reason and draft.point.usable:
        draft.point = replace(draft.point, usable=False, reason=reason)


def _settle_path(
    root: Place, drafts: Mapping[str, _Draft], order: Sequence[str], weights: Sequence[str]
) -> None:
    """Find the steps of the network, number their stages, and mark those that heads choose from."""
    steps = {place.name for place in _opened(root, drafts, weights[-1] if weights else "")}
    on_way = [drafts[name] for name in order if name in steps and not drafts[name].aside]
    # What was not called, or gave no tensor, is no step: the classifier's own feature came before.
    path = [draft for draft in on_way if draft.point.shape or not draft.absent]
    stages = _stages(path)
    feeding = [draft for draft in path if draft.weights_before < len(weights)]
    for draft in path:
        if draft not in feeding:
            _refuse(draft, "the model's output itself")
    last = feeding[-1] if feeding else None
    if len(feeding) == 1 and feeding[0].weights_after > 1:
        last = None  # what comes between it and the classifier has no spiking layers known to us
    current = 1
    for name in order:
        draft = drafts[name]
        parts = name.split(".")
        for end in range(len(parts)):  # a step itself, or what is inside one
            current = stages.get(".".join(parts[: end + 1]), current)
        usable = draft.point.usable
        draft.point = replace(draft.point, stage=current)
        if draft is last and usable:
            draft.point = replace(draft.point, reason=CLASSIFIER_FEATURE)
        elif draft in path and usable:
            draft.point = replace(draft.point, on_path=True)


def _opened(root: Place, drafts: Mapping[str, _Draft], classifier: str) -> list[Place]:
    """The steps of a network; of a backbone that looks like its one block, the steps inside."""
    steps = list(_steps(root, drafts, classifier))
    while len(steps) == 1 and steps[0].parts:
        steps = [step for part in steps[0].parts for step in _steps(part, drafts, classifier)]
    return steps


def _steps(place: Place, drafts: Mapping[str, _Draft], classifier: str) -> Iterable[Place]:
    """The outermost blocks and spiking layers.

    A block that gave nothing is taken by its parts, and so is what holds the classifier: it is no
    block but the network.
    """
    draft = drafts.get(place.name)
    whole = draft is None or draft.absent or classifier.startswith(f"{place.name}.")
    if place.parts and (place.chain or whole):
        for part in place.parts:
            yield from _steps(part, drafts, classifier)
    elif draft is not None:
        yield place


def _stages(path: Sequence[_Draft]) -> dict[str, int]:
    stages: dict[str, int] = {}
    stage, key = 0, None
    for draft in path:
        if (draft.point.channels, draft.resolution) != key:
            stage, key = stage + 1, (draft.point.channels, draft.resolution)
        stages[draft.point.name] = stage
    return stages


def _with_auto(points: ShortcutPoints, model: nn.Module) -> ShortcutPoints:
    """Mark the points that ``at="auto"`` chooses."""
    try:
        chosen = {point.name for point in choose_points(points, model, "auto")}
    except ValueError:  # nothing to choose from
        return points
    points[:] = [replace(point, auto=point.name in chosen) for point in points]
    return points


def _check_types(neuron_types: Any) -> None:
    if isinstance(neuron_types, tuple) and all(isinstance(t, type) for t in neuron_types):
        return
    raise TypeError(
        "neuron_types must be a tuple of classes, such as neuron_types=(MyNeuron,); got "
        f"{neuron_types!r}."
    )
