"""Look at a model while it runs: which modules ran, in what order, on which axes, to what end."""

from __future__ import annotations

import copy
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from sj_shortcut.neurons import is_spiking_neuron
from sj_shortcut.neurons.memory import reset_states
from sj_shortcut.places.axes import OutputAxes, find_layouts, reached, read_output, read_times
from sj_shortcut.places.classes import class_logits, main_output, why_no_classes, without_ones
from sj_shortcut.places.example_pass import Pass, calibrate, run_pass, untouched
from sj_shortcut.places.layout import Layout
from sj_shortcut.places.outputs import has_as_many_as_steps, read_outputs
from sj_shortcut.places.point import NO_ONE_DEPTH
from sj_shortcut.places.support import are_apart, both_ends
from sj_shortcut.places.time_axis import TimeAxis
from sj_shortcut.torch_model import ending_of

__all__ = ["Look", "look_at", "steps_in_one_call"]


@dataclass(frozen=True)
class Look:
    """What one look at a running model has shown. All names are dotted, in order of execution.

    Attributes:
        order: The modules that ran, in the order in which they first finished.
        shapes: Shape of the first tensor that each gave; missing where it gave none.
        layouts: Layout of each feature asked for; ``None`` where looking did not settle it.
        weights_before: Layers with weights on the way to the output that had run when each began.
        weights: The layers with weights on the way to the output; the last is the classifier.
        reach: For each tensor of the output, the modules that it depends on.
        main: Which tensor of the output looks like logits; ``None`` without any.
        logits: All that do, of as many classes.
        num_classes: Its width K.
        ending: The operation that it comes from, as autograd calls it.
        refusal: Why no head can be right for this output; empty if one can.
        mixed: Why samples depend on each other, where a spiking layer makes them.
        repeated: Why a module that ran several times has no one depth, by name.
        unbatched: Whether a convolution took the input for a single sample, or no axis of the
            output is left that could hold samples.
        mixes: Whether the rows of the output all depend on each other.
        spiking: Whether any spiking layer ran.
    """

    order: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    layouts: Mapping[str, Layout | None] = field(default_factory=dict)
    weights_before: Mapping[str, int] = field(default_factory=dict)
    weights: tuple[str, ...] = ()
    reach: Sequence[frozenset[str]] = ()
    main: int | None = None
    logits: Sequence[int] = ()
    num_classes: int | None = None
    ending: str = ""
    refusal: str = ""
    mixed: str = ""
    repeated: Mapping[str, str] = field(default_factory=dict)
    unbatched: bool = False
    mixes: bool = False
    spiking: bool = True
    calls: Mapping[str, int] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)

    def weights_from(self, name: str) -> int:
        """How many of the layers with weights finished with a module that ran, or after it."""
        return len(self._ends) - bisect_left(self._ends, self._turns[name])

    @cached_property
    def _turns(self) -> dict[str, int]:
        return {name: turn for turn, name in enumerate(self.order)}

    @cached_property
    def _ends(self) -> list[int]:
        return sorted(self._turns[name] for name in self.weights)

    def leads_to_output(self, name: str) -> bool:
        """Whether the output that looks like logits, the main one of several, depends on it."""
        return self.main is None or name in self.reach[self.main]

    def leads_to_logits(self, name: str) -> bool:
        """Whether any output that looks like logits depends on a module."""
        return self.main is None or any(name in self.reach[i] for i in self.logits)


def look_at(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    names: Sequence[str],
    *,
    neuron_types: tuple[type, ...] = (),
    num_classes: int | None = None,
) -> Look:
    """Run a model, see what it does, and leave it as it was.

    Args:
        model: The model. One with lazy layers is looked at as a copy.
        args: What it takes.
        kwargs: Likewise.
        names: The modules whose layout is wanted, where they ran.
        neuron_types: Classes to take for spiking neurons besides SpikingJelly's.
        num_classes: Class count, where known, to tell logits among several outputs.

    Raises:
        Exception: Whatever the model raises on this input.
    """
    tensors = (*model.parameters(), *model.buffers())
    if any(map(is_lazy, tensors)):
        model = _copy_of_lazy(model)
    is_neuron = partial(is_spiking_neuron, extra=neuron_types)
    with torch.inference_mode(False), untouched(model):
        seen = run_pass(model, args, kwargs, is_neuron, names)
        times = read_times(seen, is_neuron)
        outputs = read_outputs(seen, times, num_classes)
        reach = _reach(seen, outputs)
        layers = [names.intersection(seen.weights) for names in reach]
        depths = [len(names & times.keys()) for names in reach]
        main = main_output(outputs, num_classes, layers, depths)
        axes = OutputAxes(None) if main is None else read_output(seen, outputs[main], times)
        wanted = [name for name in names if name in seen.sights and seen.sights[name].shape]
        if main is not None and not all(any(axes.first.get(n, ())) for n in wanted):
            # A layer that never fires hides those before it: give batch norms their statistics.
            reset_states(model)
            calibrate(model, args, kwargs)
            seen = run_pass(model, args, kwargs, is_neuron, names)
            outputs = read_outputs(seen, times, num_classes)
            reach = _reach(seen, outputs)
            axes = read_output(seen, outputs[main], times)
        layouts = find_layouts(seen, axes, times, wanted)
        logits = class_logits(outputs, main)
        ahead = set() if main is None else reach[main]
        for i in logits:  # what leads to another exit alone shows its axes there
            if beside := [n for n in wanted if n in reach[i] and n not in ahead]:
                other = read_output(seen, outputs[i], times)
                layouts |= find_layouts(seen, other, times, beside)
        return _summary(seen, outputs, main, axes, layouts, times, reach, logits)


def _copy_of_lazy(model: nn.Module) -> nn.Module:
    """A copy of a model with lazy layers, whose buffers without a size PyTorch cannot copy."""
    empty = [b for b in model.buffers() if isinstance(b, UninitializedBuffer)]
    fresh = {id(b): UninitializedBuffer() for b in empty}
    return copy.deepcopy(model, dict(fresh))


def steps_in_one_call(model: nn.Module, x: Any, neuron_types: tuple[type, ...] = ()) -> bool | None:
    """Whether one call of a model runs several time steps, seen in a pass that leaves no trace.

    Args:
        model: The model.
        x: What to call it with, a tuple for several arguments.
        neuron_types: Classes to take for spiking neurons besides SpikingJelly's.

    Returns:
        True if a spiking layer has time of its own or is called again, False if every one runs a
        single time step; ``None`` if the model does not take ``x``.
    """
    is_neuron = partial(is_spiking_neuron, extra=neuron_types)
    args = x if isinstance(x, tuple) else (x,)
    with torch.inference_mode(False), untouched(model):
        try:
            seen = run_pass(model, args, {}, is_neuron)
        except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError):
            return None
        if _is_unbatched(seen):
            return None
        times = read_times(seen, is_neuron)
        return _has_steps(seen, times)


def _reach(seen: Pass, outputs: Sequence[Tensor]) -> list[frozenset[str]]:
    return [frozenset(reached(seen, output)) for output in outputs]


def _summary(
    seen: Pass,
    outputs: Sequence[Tensor],
    main: int | None,
    axes: OutputAxes,
    layouts: dict[str, Layout | None],
    times: Mapping[str, TimeAxis],
    reach: Sequence[frozenset[str]],
    logits: Sequence[int],
) -> Look:
    on_way = [name for name in seen.weights if main is None or name in reach[main]]
    counted = {name: i for i, name in enumerate(seen.weights)}
    turns = [counted[name] for name in on_way]  # in ascending order, as on_way is
    before = {name: bisect_left(turns, s.weights_before) for name, s in seen.sights.items()}
    shape = None if main is None else tuple(outputs[main].shape)
    return Look(
        order=tuple(seen.sights),
        shapes={name: s.shape for name, s in seen.sights.items() if s.shape is not None},
        layouts=layouts,
        weights_before=before,
        weights=tuple(on_way),
        reach=reach,
        main=main,
        logits=logits,
        num_classes=without_ones(shape)[-1] if shape else None,
        ending="" if main is None else ending_of(outputs[main]),
        refusal="" if shape is None else _refusal(seen, on_way, shape, axes, times),
        mixed="" if shape is None or not axes.mixed else _mixed(seen, times, shape),
        repeated=_repeated(seen, layouts, times),
        unbatched=_has_no_samples(seen, outputs, main),
        mixes=axes.mixed,
        spiking=bool(times),
        calls={name: sight.calls for name, sight in seen.sights.items()},
        kinds={name: sight.kind for name, sight in seen.sights.items()},
    )


def _refusal(
    seen: Pass,
    on_way: Sequence[str],
    shape: tuple[int, ...],
    axes: OutputAxes,
    times: Mapping[str, TimeAxis],
) -> str:
    last = seen.sights[on_way[-1]].module if on_way else None
    # A convolution leaves an axis of size 1 behind the classes, a Linear one number a position.
    values = len(shape) > 3 and isinstance(last, nn.Linear) and last.out_features == shape[-1] == 1
    return why_no_classes(
        shape,
        positions=axes.positions or values,
        scalars=axes.scalars,
        steps=_has_steps(seen, times),
        as_steps=has_as_many_as_steps(shape[-1], seen, times) if shape else False,
    )


def _mixed(seen: Pass, times: Mapping[str, TimeAxis], shape: tuple[int, ...]) -> str:
    """Whether a spiking layer takes rows ``[T * N, ...]`` for time steps of a single sample."""
    *lead, _ = without_ones(shape)
    rows = math.prod(lead)
    for name, time in times.items():
        ran = seen.sights[name].shape or ()
        many = time.axis == 0 and not time.folded and time.steps == ran[0] and len(ran) > 1
        if many and time.steps >= rows > 1 and time.steps % rows == 0 and rows not in ran[1:2]:
            return (
                f"samples depend on each other: '{name}' takes all {time.steps} rows of its input "
                f"{list(ran)} for time steps. Give it [T, N, ...], or else say how many time steps "
                'they are, as in layout="(4N)C...".'
            )
    return ""


def _repeated(
    seen: Pass, layouts: Mapping[str, Layout | None], times: Mapping[str, TimeAxis]
) -> dict[str, str]:
    """Modules that ran several times in one forward, but not once a time step."""
    found: dict[str, str] = {}
    counts = {name: seen.sights[name].calls for name in times}
    steps = {n: counts[n] * (t.steps if t.axis is not None else 1) for n, t in times.items()}
    for name, sight in seen.sights.items():
        if sight.calls == 1:
            continue
        behind = list(dict.fromkeys(sight.after))
        # What a loop over time begins with comes after nothing, and later after the step before.
        if len(behind) > 1 and len(seen.then(sight)) > 1:
            where = " and ".join(f"'{layer}'" if layer else "none" for layer in behind[:3])
            found[name] = (
                f"called {sight.calls} times in one forward, after different layers ({where}): "
                f"{NO_ONE_DEPTH}"
            )
            continue
        layout = layouts.get(name)
        whole = layout is not None and layout.has_time
        for other, calls in counts.items():
            # In a loop over time layers run as often as those before them, or less often.
            rather = (calls if whole else steps[other]) < sight.calls and other != name
            if rather and (whole or other in _before(seen, name)):
                found[name] = (
                    f"called {sight.calls} times in one forward, where '{other}' is called {calls} "
                    f"time{'s' * (calls > 1)}: {NO_ONE_DEPTH}"
                )
                break
    return found


def _before(seen: Pass, name: str) -> list[str]:
    order = list(seen.sights)
    inside = f"{name}."
    return [other for other in order[: order.index(name)] if not other.startswith(inside)]


def _has_steps(seen: Pass, times: Mapping[str, TimeAxis]) -> bool:
    """Whether a spiking layer has time of its own, or is called again."""
    return any(t.axis is not None or seen.sights[n].calls > 1 for n, t in times.items())


def _has_no_samples(seen: Pass, outputs: Sequence[Tensor], main: int | None) -> bool:
    """Whether the output of a batch shows none, as where a model averages over what it was on."""
    if _is_unbatched(seen):
        return True
    output = None if main is None else outputs[main]
    if output is None or len(without_ones(tuple(output.shape))) != 1:
        return False
    return len(output) > 1 and not are_apart(*both_ends(seen, output, 0))


def _is_unbatched(seen: Pass) -> bool:
    """Whether a convolution took the input for a single sample."""
    return any(
        isinstance(sight.module, nn.modules.conv._ConvNd)
        and sight.shape is not None
        and len(sight.shape) == 1 + len(sight.module.kernel_size)
        for sight in seen.sights.values()
    )
