"""Step modes of SpikingJelly's modules: read, and set for all layers in a module."""

from __future__ import annotations

from typing import Literal

from spikingjelly.activation_based import base, functional
from torch import nn

__all__ = ["StepMode", "has_step_mode", "set_step_mode", "step_mode_of"]

StepMode = Literal["s", "m"]

# What knows one step mode only may have no attribute `step_mode` before `set_step_mode`.
_SINGLE_STEP_ONLY = tuple(
    getattr(base, name) for name in ("SingleModule", "SingleStepModule") if hasattr(base, name)
)


def step_mode_of(module: nn.Module) -> StepMode | None:
    """Whether a call of a module is one time step (``"s"``) or all of them (``"m"``).

    Args:
        module: A neuron, a layer or a container.

    Returns:
        The step mode; ``None`` where the module has none, which says nothing of what it does:
        a module of PyTorch's, or a neuron class of the user's own.

    Example:
        >>> from spikingjelly.activation_based import neuron
        >>> step_mode_of(neuron.LIFNode(step_mode="m")), step_mode_of(nn.Linear(2, 2))
        ('m', None)
    """
    if isinstance(module, base.MultiStepModule):  # PSN and containers such as SeqToANNContainer
        return "m"
    if isinstance(module, _SINGLE_STEP_ONLY):
        return "s"
    mode = getattr(module, "step_mode", None)
    # A class of the user's own may mean something else by an attribute of this name.
    return mode if mode in ("s", "m") else None


def has_step_mode(module: nn.Module) -> bool:
    """Whether any layer in a module has a step mode to set."""
    return any(isinstance(inner, base.StepModule) for inner in module.modules())


def set_step_mode(module: nn.Module, mode: str) -> None:
    """Set the step mode of every layer in a module.

    Args:
        module: The module.
        mode: 's' or 'm'.
    """
    functional.set_step_mode(module, mode)
