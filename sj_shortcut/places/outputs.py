"""The tensors that a model gives, with time in front of the classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sj_shortcut.places.example_pass import Pass
from sj_shortcut.places.support import sum_that_stays
from sj_shortcut.places.time_axis import TimeAxis, indices
from sj_shortcut.torch_model import tensors_in

__all__ = ["has_as_many_as_steps", "read_outputs"]


def read_outputs(
    seen: Pass, times: Mapping[str, TimeAxis], num_classes: int | None = None
) -> list[Tensor]:
    """The floating tensors of the output; ``[N, K, T]`` as ``[N, T, K]``.

    The last axis is time where its first entry is of the first time step of a spiking layer alone,
    and its last entry of the last step as well: a class or position depends on all steps at both
    ends. Where that is not so, as after attention over time, it is time if all spiking layers have
    theirs last, or if the axis before it has as many entries as there are classes.

    Args:
        seen: The pass.
        times: Where each spiking layer has its time.
        num_classes: Class count, where known.
    """
    outputs = [t for t in tensors_in(seen.output) if t.is_floating_point()]
    return [t.movedim(-1, 1) if _is_time_last(seen, t, times, num_classes) else t for t in outputs]


def has_as_many_as_steps(size: int, seen: Pass, times: Mapping[str, TimeAxis]) -> bool:
    """Whether an axis of this size has an entry for each time step of some spiking layer."""
    return any(_steps(seen, name, time) == size > 1 for name, time in times.items())


def _steps(seen: Pass, name: str, time: TimeAxis) -> int:
    return seen.sights[name].calls if time.axis is None else time.steps


def _is_time_last(
    seen: Pass, output: Tensor, times: Mapping[str, TimeAxis], num_classes: int | None
) -> bool:
    if output.ndim < 3:
        return False
    size = output.shape[-1]
    if _all_have_time_last(seen, times) and size in {time.steps for time in times.values()}:
        return True
    if output.ndim > 3 or not has_as_many_as_steps(size, seen, times):
        return False
    if num_classes is not None and output.shape[1] == num_classes != size:
        return True
    first, last = (_steps_behind(seen, output.select(-1, end), times, size) for end in (0, -1))
    return any(first[name] == {0} and size - 1 in last[name] for name in first)


def _all_have_time_last(seen: Pass, times: Mapping[str, TimeAxis]) -> bool:
    timed = [(time, len(seen.sights[n].shape or ())) for n, time in times.items()]
    lasts = [
        not time.folded and time.axis >= max(2, ndim - 1)
        for time, ndim in timed
        if time.axis is not None
    ]
    return bool(lasts) and all(lasts)


def _steps_behind(
    seen: Pass, part: Tensor, times: Mapping[str, TimeAxis], steps: int
) -> dict[str, set[int]]:
    """Which time steps of each spiking layer with so many of them a part of the output is of."""
    alike = [name for name, time in times.items() if _steps(seen, name, time) == steps]
    found: dict[str, set[int]] = {name: set() for name in alike}
    features = [(n, call, x) for n in alike for call, x in enumerate(seen.sights[n].outputs)]
    if not (part.requires_grad and features):
        return found
    grads = torch.autograd.grad(
        sum_that_stays(part), [x for _, _, x in features], retain_graph=True, allow_unused=True
    )
    for (name, call, _), grad in zip(features, grads, strict=True):
        if grad is not None:
            found[name] |= _steps_in(grad != 0, call, times[name])
    return found


def _steps_in(marked: Tensor, call: int, time: TimeAxis) -> set[int]:
    if time.axis is None:
        return {call} if bool(marked.any()) else set()
    rows = indices(marked)[time.axis]
    if not time.folded:
        return rows
    samples = marked.shape[time.axis] // time.steps
    return {row // samples if time.time_first else row % time.steps for row in rows}
