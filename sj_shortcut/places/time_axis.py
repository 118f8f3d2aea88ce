"""Where a spiking layer has its time, seen by running it alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sj_shortcut.neurons import is_spiking_neuron, step_mode_of
from sj_shortcut.neurons.calls import known_step_mode
from sj_shortcut.torch_model import first_tensor, preserved

__all__ = ["TimeAxis", "indices", "time_axis"]

_BIG = 1e3


@dataclass(frozen=True)
class TimeAxis:
    """Where one call of a spiking layer has its time.

    Attributes:
        axis: The axis; ``None`` if a call is one time step.
        steps: Time steps in one call.
        folded: Whether the axis holds the batch as well.
        time_first: Whether folded time runs slower than the batch.
        known: False where looking did not tell.
    """

    axis: int | None = None
    steps: int = 1
    folded: bool = False
    time_first: bool = True
    known: bool = True


def time_axis(
    neuron: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], shape: tuple[int, ...]
) -> TimeAxis:
    """Find the time axis of a spiking layer.

    SpikingJelly's own layers tell by their step mode. Others are run alone: which outputs move
    with one element of the input, and on which inputs one output depends, through the surrogate
    gradient. Elements of one neuron at several times are all they have in common. One that
    remembers nothing, and so shows nothing, is taken at its word where it has a step mode.

    Args:
        neuron: The layer; its state is lost.
        args: What it was called with.
        kwargs: Likewise.
        shape: Shape of its output then.
    """
    mode = known_step_mode(neuron)
    if mode is not None:
        return TimeAxis(0, shape[0]) if mode == "m" else TimeAxis()
    try:
        found = _conclude(_Alone(neuron, args, kwargs), shape, _has_weights(neuron))
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return TimeAxis(known=False)
    if found.known and found.axis is None and step_mode_of(neuron) == "m":
        return TimeAxis(0, shape[0])  # it remembers nothing, and says that it takes all steps
    return found


def indices(marked: Tensor) -> list[set[int]]:
    """For each axis, the indices at which anything is marked."""
    found = []
    for axis in range(marked.ndim):
        others = [other for other in range(marked.ndim) if other != axis]
        along = marked.any(others[0]) if len(others) == 1 else marked
        if len(others) > 1:
            along = marked.movedim(axis, 0).flatten(1).any(1)
        elif not others:
            along = marked
        found.append(set(along.nonzero().flatten().tolist()))
    return found


class _Alone:
    """What a layer shows when it runs alone.

    Attributes:
        forward: For each axis, where the output moves with the first element of the input.
        back: For each axis, on which inputs the last element of the output depends.
        late: For each axis, where the output moves with the last element of the input.
    """

    def __init__(self, neuron: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.neuron = neuron
        self.rest = args[1:]
        self.kwargs = kwargs
        x = args[0].detach()
        self.forward: list[set[int]] = [set() for _ in range(x.ndim)]
        self.back: list[set[int]] = [set() for _ in range(x.ndim)]
        self.late: list[set[int]] = [set() for _ in range(x.ndim)]
        for draw in self._draws(x):
            self._look(draw)

    @staticmethod
    def _draws(x: Tensor) -> Iterable[Tensor]:
        """Inputs without spikes, near the threshold and above it: one of them passes gradients."""
        noise = torch.rand_like(x)
        return (x, 1e-3 * noise, 0.2 * noise, noise, 2 * torch.randn_like(x))

    def _run(self, x: Tensor) -> Tensor:
        """From the same state each time, whatever the layer calls it and however it is reset."""
        with preserved(self.neuron):
            reset = getattr(self.neuron, "reset", None)
            if callable(reset):
                reset()
            y = first_tensor(self.neuron(x, *self.rest, **self.kwargs))
        if y is None or y.ndim != x.ndim:
            raise ValueError("the output is no tensor of as many axes as the input")
        return y

    def _look(self, x: Tensor) -> None:
        grad = None
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            y = self._run(leaf)
            if y.requires_grad:
                last = y[(-1,) * y.ndim]
                (grad,) = torch.autograd.grad(last, leaf, allow_unused=True)
        if grad is not None:
            _join(self.back, indices(grad != 0))
        with torch.no_grad():
            plain = self._run(x)
            for place, found in ((0, self.forward), (-1, self.late)):
                for size in (_BIG, -_BIG):
                    moved = x.clone()
                    moved[(place,) * x.ndim] += size
                    _join(found, indices(self._run(moved) != plain))


def _join(known: list[set[int]], more: list[set[int]]) -> None:
    for old, new in zip(known, more, strict=True):
        old |= new


def _has_weights(neuron: nn.Module) -> bool:
    """Whether it may weigh its neurons for each other; SpikingJelly's weigh time steps only."""
    return not is_spiking_neuron(neuron) and any(w.ndim > 1 for w in neuron.parameters())


def _conclude(seen: _Alone, shape: tuple[int, ...], weighs: bool) -> TimeAxis:
    if not any(map(len, (*seen.forward, *seen.back))):
        return TimeAxis(known=False)
    wide = [a for a in range(len(shape)) if max(len(seen.forward[a]), len(seen.back[a])) > 1]
    if len(wide) > 1:  # neighbours in space take part as well, but only time runs one way
        wide = [axis for axis in wide if seen.late[axis] <= {shape[axis] - 1}]
        if len(wide) != 1:
            return TimeAxis(known=False)
    if not wide:
        return TimeAxis()
    axis = wide[0]
    size = shape[axis]
    if axis and not seen.late[axis] <= {size - 1}:  # what comes last reaches those before it
        if len(shape) == 2:  # batch and channels, of neurons that are connected to each other
            return TimeAxis()
        if weighs:  # from neuron to neuron, or from one time step to others
            return TimeAxis(known=False)
    ahead, behind = seen.forward[axis] | {0}, {size - 1 - i for i in seen.back[axis]}
    stride = math.gcd(*ahead, *behind)
    if stride > 1 and size % stride == 0:
        return TimeAxis(axis, size // stride, folded=True)
    reach = 1 + max(ahead | behind)
    if stride == 1 and reach < size and size % reach == 0:
        return TimeAxis(axis, reach, folded=True, time_first=False)
    return TimeAxis(axis, size)
