"""What is measured of spiking layers, and what is kept of each call of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sj_shortcut.gradients.columns import names_of
from sj_shortcut.neurons.surrogates import AliveCounter
from sj_shortcut.torch_model.norms import l2_norm

__all__ = [
    "SPIKE_MEASURES",
    "Call",
    "Noted",
    "Potentials",
    "SpikeMeasure",
    "quantities",
    "spike_measure",
]

Axes = tuple[int, ...] | None
Place = Literal["output", "gradient", "potentials"]
Reduce = Callable[[Any, Axes], Tensor]
Join = Callable[[Sequence[float], Sequence[float]], float]


@dataclass(frozen=True)
class SpikeMeasure:
    """How a column is measured.

    Attributes:
        at: What it looks at: the spiking layer's ``"output"``, the ``"gradient"`` there, or its
            membrane ``"potentials"``.
        reduce: What is kept of one call: ``reduce(seen, axes)`` reduces what it looks at over
            ``axes``, ``None`` for all. That is a tensor, or :class:`Potentials`.
        join: Makes one number of those of several calls: ``join(values, sizes)`` takes the numbers
            and of how many entries each was reduced.
    """

    at: Place
    reduce: Reduce
    join: Join


@dataclass(frozen=True, eq=False)
class Potentials:
    """Membrane potentials of one call of a surrogate function.

    Attributes:
        x: The potentials less the threshold, as the function takes them.
        function: The surrogate function.
        count_alive: Counts those at which it passes gradient on.
        overwrite: Whether ``x`` may be overwritten.
    """

    x: Tensor
    function: nn.Module
    count_alive: AliveCounter
    overwrite: bool


@dataclass(eq=False)
class Noted:
    """What one call left for one column.

    A measure looks at the output of the call, at its gradient, or at the membrane potentials, and
    reduces what it sees to one number. Where time steps are to be kept apart and the call ran
    several, it keeps a number for each index of the first axis instead.

    Attributes:
        tensors: The results. There is one of an output or a gradient. Of potentials there is one
            for each call of the surrogate function: a single one if the neuron passes it all time
            steps at once (then the first axis is time), or one or more a time step.
        size: Number of entries of what was looked at.
    """

    tensors: list[Tensor] = field(default_factory=list)
    size: int = 0

    def add(self, tensor: Tensor, size: int) -> None:
        """Keep one more."""
        self.tensors.append(tensor)
        self.size += size


@dataclass(eq=False)
class Call:
    """One call of a layer of spiking neurons.

    Attributes:
        neuron: Its dotted name.
        batch: Number of backward passes that had begun before it.
        turn: Number of calls of the model before it that belong to the same ``batch``.
        multi_step: Whether the call ran all time steps.
        shape: Shape of the output.
        noted: What was kept for each column.
        grads: Number of backward passes that came through.
    """

    neuron: str
    batch: int
    turn: int
    multi_step: bool
    shape: torch.Size = field(default_factory=torch.Size)
    noted: dict[str, Noted] = field(default_factory=dict)
    grads: int = 0

    @property
    def duration(self) -> int:
        """Time steps in this call."""
        return self.shape[0] if self.multi_step and self.shape else 1


SPIKE_MEASURES: dict[str, SpikeMeasure] = {}


def spike_measure(at: Place, join: Join) -> Callable[[Reduce], Reduce]:
    """Let a function fill the column of its name; see :class:`SpikeMeasure`."""

    def register(function: Reduce) -> Reduce:
        SPIKE_MEASURES[function.__name__] = SpikeMeasure(at, function, join)
        return function

    return register


def root_of_squares(values: Sequence[float], sizes: Sequence[float]) -> float:
    """Norms of parts make the norm of the whole."""
    return math.hypot(*values)


def share(values: Sequence[float], sizes: Sequence[float]) -> float:
    """Counts make a share of all entries; NaN where there are none."""
    whole = sum(sizes)
    return sum(values) / whole if whole else math.nan


@spike_measure("gradient", root_of_squares)
def output_grad_norm(grad: Tensor, axes: Axes) -> Tensor:
    """L2 norm of the gradient at the output."""
    return l2_norm(grad, axes)


@spike_measure("potentials", share)
def alive(potentials: Potentials, axes: Axes) -> Tensor:
    """Number of potentials where the surrogate's derivative is high enough."""
    seen = potentials
    return seen.count_alive(seen.function, seen.x, axes, seen.overwrite)


@spike_measure("output", share)
def firing_rate(spikes: Tensor, axes: Axes) -> Tensor:
    """Number of outputs that are not 0."""
    return torch.count_nonzero(spikes, axes)


def quantities(activity: bool | Collection[str]) -> tuple[str, ...]:
    """What to measure of spiking layers: the columns that an argument ``activity`` asks for.

    Raises:
        ValueError: If a name is unknown.
    """
    known = names_of("spikes")
    if isinstance(activity, bool):
        return known if activity else ()
    names = (activity,) if isinstance(activity, str) else tuple(activity)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"activity names {unknown[0]!r}, which is none of {', '.join(map(repr, known))}: "
            "name some of these, or say True for all and False for none."
        )
    return names
