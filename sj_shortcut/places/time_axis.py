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
_MANY = 16


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
    with one end of an axis of the input, and on which inputs one end of the output depends, through
    the surrogate gradient. Time runs one way; what runs both ways connects neurons, or may. One
    that remembers nothing, and so shows nothing, is taken at its word where it has a step mode.

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
        found = _conclude(_Alone(neuron, args, kwargs), shape, *_connects(neuron))
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return TimeAxis(known=False)
    if found.known and found.axis is None and step_mode_of(neuron) == "m":
        return TimeAxis(0, shape[0])  # it remembers nothing, and says that it takes all steps
    return found


def indices(marked: Tensor) -> list[set[int]]:
    """For each axis, the indices at which anything is marked."""
    return [_along(marked, axis) for axis in range(marked.ndim)]


def _along(marked: Tensor, axis: int) -> set[int]:
    rows = marked.movedim(axis, 0).unsqueeze(-1).flatten(1)
    return set(rows.any(1).nonzero().flatten().tolist())


class _Alone:
    """What a layer shows when it runs alone.

    Each end of each axis is tried as a whole slice, every neuron by another amount: one neuron may
    stay silent whatever reaches it, and all of them hardly.

    Attributes:
        forward: For each axis, where the output moves with the first slice of the input.
        late: For each axis, where the output moves with the last slice of the input.
        back: For each axis, on which inputs the last slice of the output depends.
        early: For each axis, on which inputs the first slice of the output depends.
    """

    def __init__(self, neuron: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.neuron = neuron
        self.rest = args[1:]
        self.kwargs = kwargs
        x = args[0].detach()
        self.forward: list[set[int]] = [set() for _ in range(x.ndim)]
        self.late: list[set[int]] = [set() for _ in range(x.ndim)]
        self.back: list[set[int]] = [set() for _ in range(x.ndim)]
        self.early: list[set[int]] = [set() for _ in range(x.ndim)]
        self.axes = [axis for axis, size in enumerate(x.shape) if size > 1] or [0]
        for draw in self._draws(x):
            self._follow(draw)
            self._move(draw)

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

    def _follow(self, x: Tensor) -> None:
        """Where gradients of both ends of the output arrive."""
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            y = self._run(leaf)
        if not y.requires_grad:
            return
        weights = 0.5 + torch.rand_like(y)  # so that nothing cancels
        for axis in self.axes:
            for end, found in ((0, self.early), (-1, self.back)):
                (grad,) = torch.autograd.grad(
                    y.select(axis, end), leaf, weights.select(axis, end), True, allow_unused=True
                )
                if grad is not None:
                    found[axis] |= _along(grad != 0, axis)

    def _move(self, x: Tensor) -> None:
        """What moves with both ends of the input."""
        kick = _BIG * torch.randn_like(x).sign()
        with torch.no_grad():
            plain = self._run(x)
            for axis in self.axes:
                # Of few neurons each is tried both ways; of many some are.
                signs = (1, -1) if kick.select(axis, 0).numel() < _MANY else (1,)
                for end, found in ((0, self.forward), (-1, self.late)):
                    for sign in signs:
                        moved = x.clone()
                        moved.select(axis, end).add_(kick.select(axis, end), alpha=sign)
                        found[axis] |= _along(self._run(moved) != plain, axis)

    def runs_one_way(self, axis: int, size: int) -> bool:
        """Whether nothing reaches what comes before it, as it is with time."""
        return self.late[axis] <= {size - 1} and self.early[axis] <= {0}


def _connects(neuron: nn.Module) -> tuple[bool, bool]:
    """Whether it may connect its neurons to each other, and whether it has weights to do so.

    SpikingJelly's connect time steps only.
    """
    own = not is_spiking_neuron(neuron)
    return own, own and any(weight.ndim > 1 for weight in neuron.parameters())


def _conclude(seen: _Alone, shape: tuple[int, ...], own: bool, weighs: bool) -> TimeAxis:
    if not any(map(len, (*seen.forward, *seen.back))):
        return TimeAxis(known=False)
    wide = [a for a in range(len(shape)) if max(len(seen.forward[a]), len(seen.back[a])) > 1]
    if len(wide) > 1:  # neighbours in space take part as well, but only time runs one way
        wide = [axis for axis in wide if seen.runs_one_way(axis, shape[axis])]
        if len(wide) != 1:
            return TimeAxis(known=False)
    if not wide:
        return TimeAxis()
    axis = wide[0]
    size = shape[axis]
    if axis and not seen.runs_one_way(axis, size):  # what comes last reaches those before it
        if len(shape) == 2:  # batch and channels, of neurons that are connected to each other
            return TimeAxis()
        if own:  # from neuron to neuron, or from one time step to others
            return TimeAxis(known=False)
    if axis and weighs and len(seen.back[axis]) < 2:  # no gradients, and without little is seen
        return TimeAxis(known=False)
    ahead, behind = seen.forward[axis] | {0}, {size - 1 - i for i in seen.back[axis]}
    stride = math.gcd(*ahead, *behind)
    if stride > 1 and size % stride == 0:
        return TimeAxis(axis, size // stride, folded=True)
    reach = 1 + max(ahead | behind)
    if stride == 1 and reach < size and size % reach == 0:
        return TimeAxis(axis, reach, folded=True, time_first=False)
    return TimeAxis(axis, size)
