"""What a tracer keeps of one call of a spiking layer."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Call", "Noted"]


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
