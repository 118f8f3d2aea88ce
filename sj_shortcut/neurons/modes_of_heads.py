"""Step modes of the layers inside a shortcut head, and the base class that resets reach."""

from __future__ import annotations

from spikingjelly.activation_based import base, functional
from torch import nn

__all__ = ["Resettable", "has_memory", "has_step_mode", "set_step_mode"]


class Resettable(base.MemoryModule):
    """A module without a memory of its own that ``functional.reset_net`` calls ``reset()`` of.

    On SpikingJelly 0.0.0.0.14 ``reset_net`` warns of a ``reset()`` of any other class.
    """

    def keep_hooks_around(self) -> None:
        """Have the module around this one called with its hooks if memopt comes to optimize it.

        SpikingJelly 2.0.0's memopt, which counts memories, runs neurons around their hooks unless
        something inside them has a memory as well: an empty one is enough.
        """
        self.register_memory("inside", None)

    def detach(self) -> None:
        """There is nothing that ``functional.detach_net`` could cut."""


def has_step_mode(module: nn.Module) -> bool:
    """Whether any layer in a module has a step mode."""
    return any(isinstance(inner, base.StepModule) for inner in module.modules())


def has_memory(module: nn.Module) -> bool:
    """Whether a module is one of SpikingJelly's that remember."""
    return isinstance(module, base.MemoryModule)


def set_step_mode(module: nn.Module, mode: str) -> None:
    """Set the step mode of every layer in a module.

    Args:
        module: The module.
        mode: 's' or 'm'.
    """
    functional.set_step_mode(module, mode)
