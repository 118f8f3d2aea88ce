"""Which axis of a feature holds time, seen by the steps of a spiking layer that its slices need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sj_shortcut.places.example_pass import Sight
from sj_shortcut.places.layout import UnclearAxisError
from sj_shortcut.places.support import sum_that_stays
from sj_shortcut.places.time_axis import TimeAxis, indices

__all__ = ["time_of_feature"]

# So many slices along an axis are followed: the two ends, and what lies evenly between them.
_MOST_SLICES = 4


def time_of_feature(sight: Sight, near: Sight, time: TimeAxis, left: Sequence[int]) -> int | None:
    """The time axis of a feature, told by a spiking layer that has time; ``None`` for none.

    Time runs one way: the later a slice along the time axis, the later the steps that it needs.
    Slices along other axes need all steps. Sizes count where all was mixed, or nothing arrives:
    time may have been pooled, and another axis may be as long.

    Args:
        sight: The feature.
        near: The spiking layer.
        time: Where that has its time.
        left: The axes of the feature but the batch.

    Raises:
        UnclearAxisError: If time may lie on several axes, or on one of which nothing is known.
    """
    assert sight.shape is not None
    looped = _is_looped(sight, near, time)
    own, steps = (None, near.calls // sight.calls) if looped else (time.axis, time.steps)
    fits = [axis for axis in left if sight.shape[axis] == steps]
    alike = not looped and len(sight.shape) == len(near.shape or ())
    if alike and fits == [own]:
        return own
    shown, ahead = _shown(sight, near, time, left) if len(left) > 1 and steps > 1 else ([], False)
    if len(shown) == 1:
        return shown[0]
    among = [axis for axis in fits if axis in shown] or fits
    if own in among:
        return own
    if ahead and not shown:
        return None  # as of an image that is only then given to each step
    if len(among) == 1 and (alike or looped):
        return among[0]
    ones = [axis for axis in left if sight.shape[axis] == 1]
    if alike and not shown and len(ones) == 1:
        return ones[0]  # all steps pooled into one
    # With an axis less it is gone, as after an average over time.
    if shown or (steps > 1 and (alike or (looped and among))):
        raise UnclearAxisError
    return None


def _is_looped(sight: Sight, near: Sight, time: TimeAxis) -> bool:
    """Whether the layer runs one step after the other in each call of the module."""
    return near.calls > sight.calls and time.axis is None


def _shown(
    sight: Sight, near: Sight, time: TimeAxis, left: Sequence[int]
) -> tuple[list[int], bool]:
    """The axes along which later slices need later steps; whether the layer runs after all that."""
    looped = _is_looped(sight, near, time)
    # Of a layer that took all steps several times, the last time in the module's first call.
    ran = near.calls // sight.calls if near.calls > sight.calls else 1
    if not sight.outputs or len(near.outputs) < ran:
        return [], False
    feature, steps = sight.outputs[0], near.outputs[:ran] if looped else [near.outputs[ran - 1]]
    reach = {axis: _latest_needed(feature, axis, steps, time.axis) for axis in left}
    ahead = not _arrives(reach)
    if ahead:
        reach = _latest_reached(feature, left, steps, time.axis)
    rising = [axis for axis, late in reach.items() if len(late) > 1 and _rises(late)]
    return rising, ahead and _arrives(reach)


def _arrives(reach: Mapping[int, Sequence[int | None]]) -> bool:
    return any(late is not None for some in reach.values() for late in some)


def _rises(late: Sequence[int | None]) -> bool:
    return all(a is not None and b is not None and a < b for a, b in pairwise(late))


def _latest_needed(
    feature: Tensor, axis: int, steps: Sequence[Tensor], time: int | None
) -> list[int | None]:
    """For slices of a feature, the latest step that each comes from."""
    found: list[int | None] = []
    for index in _spread(feature.shape[axis]):
        grads = _gradients(feature.select(axis, index), steps)
        if time is not None:
            found.append(_latest(grads[0], time))
        else:
            arrives = [step for step, grad in enumerate(grads) if grad is not None and grad.any()]
            found.append(max(arrives, default=None))
    return found


def _latest_reached(
    feature: Tensor, left: Sequence[int], steps: Sequence[Tensor], time: int | None
) -> dict[int, list[int | None]]:
    """For each axis of a feature, the latest slice that comes into each of the steps after it."""
    parts = steps if time is None else steps[0].unbind(time)
    grads = [_gradients(parts[i], [feature])[0] for i in _spread(len(parts))]
    return {axis: [_latest(grad, axis) for grad in grads] for axis in left}


def _spread(size: int) -> list[int]:
    count = min(size, _MOST_SLICES)
    return [i * (size - 1) // max(count - 1, 1) for i in range(count)]


def _gradients(part: Tensor, of: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    if not part.requires_grad:
        return (None,) * len(of)
    return torch.autograd.grad(sum_that_stays(part), of, retain_graph=True, allow_unused=True)


def _latest(grad: Tensor | None, axis: int) -> int | None:
    return None if grad is None else max(indices(grad != 0)[axis], default=None)
