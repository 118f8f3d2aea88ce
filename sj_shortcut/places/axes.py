"""Tell the axes of every feature of a forward pass by looking at where gradients arrive.

The gradient of one sample's output falls on that sample's slice of a feature: its place along each
axis tells which holds the batch. The gradient of one channel falls on that channel of the layer
with weights before it. Time is told by the spiking layers (:mod:`sj_shortcut.places.time_axis`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from sj_shortcut.neurons import step_mode_of
from sj_shortcut.neurons.calls import known_step_mode
from sj_shortcut.places.channel_axis import channel_axis
from sj_shortcut.places.channels import ChannelFinder
from sj_shortcut.places.classes import without_ones
from sj_shortcut.places.example_pass import Pass, Sight
from sj_shortcut.places.feature_time import time_of_feature
from sj_shortcut.places.layout import Layout, UnclearAxisError
from sj_shortcut.places.support import (
    Support,
    are_apart,
    both_depend,
    both_ends,
    gradients,
    support,
)
from sj_shortcut.places.time_axis import TimeAxis, time_axis

__all__ = ["OutputAxes", "find_layouts", "read_output", "read_times", "reached"]


@dataclass(frozen=True)
class OutputAxes:
    """The axes of a model's output.

    Attributes:
        samples: Batch size N; ``None`` where it could not be seen.
        positions: Whether an axis is neither batch, time nor classes.
        scalars: Whether there are no classes, one number a sample and time step.
        mixed: Whether its rows all depend on each other.
        first: For each feature, the indices along each axis that the first sample depends on.
        last: Those of the last sample.
        folded: Time steps folded into its rows, 0 for none; and whether time runs slower.
    """

    samples: int | None
    positions: bool = False
    first: Support = field(default_factory=dict)
    last: Support = field(default_factory=dict)
    folded: tuple[int, bool] = (0, True)
    scalars: bool = False
    mixed: bool = False


def reached(seen: Pass, output: Tensor) -> set[str]:
    """Names of the modules that an output depends on."""
    return set(gradients(seen, output))


def read_times(seen: Pass, is_neuron: Callable[[nn.Module], bool]) -> dict[str, TimeAxis]:
    """Where each spiking layer of a pass has its time; one look a class, step mode and shape."""
    known: dict[object, TimeAxis] = {}
    times = {}
    for name, sight in seen.sights.items():
        if sight.shape is None or not is_neuron(sight.module):
            continue
        mode = getattr(sight.module, "step_mode", None)
        key = (type(sight.module), mode, sight.shape)
        if key not in known:
            known[key] = time_axis(sight.module, sight.args, sight.kwargs, sight.shape)
        times[name] = known[key]
        if times[name].known and times[name].axis is None and mode is None:
            times[name] = _as_its_source(sight, seen)
    return times


def _as_its_source(sight: Sight, seen: Pass) -> TimeAxis:
    """The time of a layer that neither remembers nor has a step mode: as of the layer before it."""
    source = seen.sights.get(sight.after[0])
    if source is None or source.shape is None or step_mode_of(source.module) != "m":
        return TimeAxis()
    same_steps = sight.shape is not None and sight.shape[0] == source.shape[0]
    return TimeAxis(0, source.shape[0]) if same_steps else TimeAxis()


def read_output(seen: Pass, output: Tensor, times: Mapping[str, TimeAxis]) -> OutputAxes:
    """Find the batch in the output: samples do not depend on each other, time steps do."""
    shape = without_ones(tuple(output.shape))
    steps = {time.steps for time in times.values() if time.axis is not None}
    steps |= {sight.calls for sight in seen.sights.values() if sight.calls > 1}
    steps |= {s.shape[0] for s in seen.sights.values() if s.shape and _takes_all_steps(s)}
    if len(shape) not in (2, 3):
        return OutputAxes(None)
    sights = [both_ends(seen, output, axis) for axis in range(len(shape) - 1)]
    apart = [are_apart(first, last) for first, last in sights]
    if len(shape) == 2:
        if not apart[0] and shape[0] in steps and are_apart(*both_ends(seen, output, 1)):
            return OutputAxes(shape[1], scalars=True)
        rows = _rows(output, *sights[0], times, seen)
        return replace(rows, mixed=both_depend(rows.first, rows.last))
    folded = shape[0] * shape[1] in steps and not set(shape[:2]) & (steps | {1})
    if folded and all(both_depend(*ends) for ends in sights):
        return OutputAxes(None, mixed=True)
    batch = _choose_batch(shape, apart, steps, times)
    if batch is None:
        return OutputAxes(None, positions=not set(shape[:2]) & (steps | {1}))
    first, last = sights[batch] if apart[batch] else ({}, {})
    other = 1 - batch
    timed = shape[other] == 1 or (
        shape[other] in steps and not (apart[other] and _sees_all_times(sights[other][0], times))
    )
    return OutputAxes(shape[batch], not timed, first, last)


def _takes_all_steps(sight: Sight) -> bool:
    """Whether a container of SpikingJelly's has time on its first axis, whatever is in it."""
    return isinstance(sight.module, nn.Sequential) and step_mode_of(sight.module) == "m"


def _sees_all_times(first: Support, times: Mapping[str, TimeAxis]) -> bool:
    """Whether the first slice along an axis depends on later time steps: then it is no time."""
    return any(
        bool(first[name][time.axis] - {0})
        for name, time in times.items()
        if name in first and time.axis is not None and not time.folded
    )


def _choose_batch(
    shape: Sequence[int], apart: Sequence[bool], steps: set[int], times: Mapping[str, TimeAxis]
) -> int | None:
    """Which of the two first axes of ``[A, B, K]`` holds the batch."""
    if apart[0] != apart[1]:
        seen = apart.index(True)
        # Beside a batch of one sample, which cannot be seen to be apart, time without memory is.
        if shape[1 - seen] > 1 or shape[seen] not in steps:
            return seen
    timed = [size in steps for size in shape[:2]]
    if timed[0] != timed[1]:
        return timed.index(False)
    # Nothing is remembered from one step to the next, or sizes tie: then as the neurons have it.
    axes = {time.axis for time in times.values() if time.axis is not None}
    return 1 - axes.pop() if len(axes) == 1 and axes <= {0, 1} else None


def _rows(
    output: Tensor, first: Support, last: Support, times: Mapping[str, TimeAxis], seen: Pass
) -> OutputAxes:
    """The rows of an output ``[A, K]``: samples, or samples of every time step."""
    rows = output.shape[0]
    for name, time in times.items():
        shape = seen.sights[name].shape or ()
        if time.axis is None or time.steps == 1 or rows % time.steps:
            continue
        if time.folded and shape[time.axis] == rows:
            fold = (time.steps, time.time_first)
        elif not time.folded and time.axis < 2 <= len(shape) and shape[1 - time.axis] != rows:
            if shape[1 - time.axis] * time.steps != rows:
                continue
            fold = (time.steps, _is_time_slower(seen, output, name, time))
        else:
            continue
        samples = rows // fold[0]
        # Of a sample all steps, as one alone may stand at either end whatever the order.
        apart = output.unflatten(0, (fold[0], samples) if fold[1] else (samples, fold[0]))
        first, last = both_ends(seen, apart, 1 if fold[1] else 0)
        return OutputAxes(samples, False, first, last, fold)
    return OutputAxes(rows, False, first, last)


def _is_time_slower(seen: Pass, output: Tensor, name: str, time: TimeAxis) -> bool:
    """Whether rows that hold samples and steps are ``t * N + n``: the second is another sample's.

    Seen at a layer with both axes; where nothing arrives there they stay in the order it has them.
    """
    assert time.axis is not None
    shown = support(seen, output.select(0, 1)).get(name)
    samples = shown[1 - time.axis] if shown is not None else set()
    return samples == {1} if samples in ({0}, {1}) else time.axis == 0


def find_layouts(
    seen: Pass, axes: OutputAxes, times: Mapping[str, TimeAxis], names: Sequence[str]
) -> dict[str, Layout | None]:
    """The layout of each feature; ``None`` where looking did not settle it.

    Args:
        seen: The pass.
        axes: What :func:`read_output` told.
        times: What :func:`read_times` told.
        names: The modules whose features are asked for.
    """
    order = {name: place for place, name in enumerate(seen.sights)}
    timed = [name for name in seen.sights if name in times]
    layouts: dict[str, Layout | None] = {}
    channels = ChannelFinder(seen)
    for name in names:
        sight = seen.sights[name]
        inside = [n for n in timed if f"{n}.".startswith(f"{name}." if name else "")]
        before = [n for n in timed if order[n] <= order[name]]
        # What is inside may have been left out, as may all before it.
        near = next(reversed(inside or before), next(iter(timed), None))
        try:
            layouts[name] = _Feature(seen, sight, axes, times, near, channels).layout()
        except UnclearAxisError:
            layouts[name] = None
    return layouts


class _Feature:
    """One feature, and what is known around it."""

    def __init__(
        self,
        seen: Pass,
        sight: Sight,
        axes: OutputAxes,
        times: Mapping[str, TimeAxis],
        near: str | None,
        channels: ChannelFinder,
    ) -> None:
        assert sight.shape is not None
        self.seen = seen
        self.sight = sight
        self.shape = sight.shape
        self.axes = axes
        self.channels = channels
        self.near = seen.sights[near] if near is not None else None
        self.time = times[near] if near is not None else TimeAxis()

    def layout(self) -> Layout | None:
        if len(self.shape) < 2:
            return None
        # Where rows hold samples and steps, time can look like a batch: not if it is known as time.
        for batch, folded, time_first in sorted(self._batches(), key=self._is_time):
            time = self._time_beside(batch) if folded else self._time(batch)
            left = [a for a in range(len(self.shape)) if a not in (batch, time)]
            if not left or (not self.time.known and self.sight is self.near):
                continue
            channel, sure = self.channels.find(self.sight, left)
            return Layout(len(self.shape), batch, channel, time, folded, time_first, sure)
        return self._as_usual()

    def _is_time(self, found: tuple[int, int, bool]) -> bool:
        near = self.near
        return near is not None and found[0] == self.time.axis and near.shape == self.shape

    def _batches(self) -> list[tuple[int, int, bool]]:
        """Axes that can be the batch: axis, time steps folded into it, whether time is slower."""
        first, last = self.axes.first.get(self.sight.name), self.axes.last.get(self.sight.name)
        samples = self.axes.samples
        if first is None or last is None or samples is None or samples < 2:
            return []
        found = []
        for axis, size in enumerate(self.shape):
            one, other = first[axis], last[axis]
            if not one or not other or one & other or size % samples:
                continue
            steps = size // samples
            if steps == 1:
                if one == {0} and other == {size - 1}:
                    found.append((axis, 0, True))
            elif all(i % samples == 0 for i in one) and all(
                i % samples == samples - 1 for i in other
            ):
                found.append((axis, steps, True))
            elif max(one) < steps and min(other) >= size - steps:
                found.append((axis, steps, False))
        return found

    def _time_beside(self, batch: int) -> int | None:
        """The time axis where what is folded into the batch is not time, but views or windows."""
        axis, near = self.time.axis, self.near
        if axis is None or axis == batch or self.time.folded or near is None:
            return None
        alike = len(self.shape) == len(near.shape or ()) and self.shape[axis] == self.time.steps
        return axis if alike else None

    def _time(self, batch: int) -> int | None:
        """The time axis, by the spiking layer at hand."""
        near = self.near
        if batch and _takes_all_steps(self.sight):
            return 0
        if near is None:
            return None
        if self.time.axis is None and near.calls == self.sight.calls:  # a single step, stacked
            for axis in (0, 1):
                rest = self.shape[:axis] + self.shape[axis + 1 :]
                if axis != batch and self.shape[axis] == 1 and rest == near.shape:
                    return axis
        time, left = self.time, [axis for axis in range(len(self.shape)) if axis != batch]
        if time.axis is None and near.calls <= self.sight.calls:
            return self._single_step(batch)
        if not time.folded:
            return time_of_feature(self.sight, near, time, left)
        fits = [axis for axis in left if self.shape[axis] == time.steps]
        # What is around a layer that takes rows may have both axes.
        beside = batch - 1 if time.time_first else batch + 1
        unfolded = len(self.shape) == len(near.shape or ()) + 1
        return beside if beside in fits else fits[0] if len(fits) == 1 and unfolded else None

    def _single_step(self, batch: int) -> int | None:
        """The axis of a single time step, which a neuron that has no step mode does not show."""
        source = next(iter(self.channels.sources(self.sight)), None) if batch >= 0 else None
        if source is None or self.near is None or known_step_mode(self.near.module) is not None:
            return None
        axis = channel_axis(source)
        if axis is None or len(self.shape) != 2 - axis:  # batch, time, channels and space
            return None
        return next((a for a in (0, 1) if a != batch and self.shape[a] == 1), None)

    def _as_usual(self) -> Layout | None:
        """What SpikingJelly's neurons tell by themselves, where gradients did not."""
        near, ndim = self.near, len(self.shape)
        samples = self.axes.samples
        if near is None or not self.time.known or (self.axes.mixed and samples is None):
            return None
        plain = self.time.axis in (None, 0) and not self.time.folded
        time = self._time(-1) if plain else None  # on the first axis, or not at all
        batch = 0 if time is None else 1
        plain = plain and time in (None, 0)
        if not plain or ndim < batch + 2 or (samples is not None and self.shape[batch] != samples):
            return None
        left = list(range(batch + 1, ndim))
        return Layout(ndim, batch, self.channels.find(self.sight, left)[0], time, sure=False)
