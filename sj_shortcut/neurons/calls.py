"""How a spiking layer takes its input, where its class alone tells."""

from __future__ import annotations

from torch import nn

__all__ = ["known_step_mode"]


def known_step_mode(neuron: nn.Module) -> str | None:
    """Step mode 's' or 'm' of a layer whose ``forward`` is SpikingJelly's own; else ``None``.

    In step mode 'm' SpikingJelly's own forward takes time on axis 0, in 's' one time step. A class
    with a forward of the user's may do anything with its input before it calls SpikingJelly's.

    Example:
        >>> from spikingjelly.activation_based import neuron
        >>> known_step_mode(neuron.LIFNode(step_mode="m"))
        'm'
        >>> class Folded(neuron.LIFNode):
        ...     def forward(self, x):
        ...         return super().forward(x.view(4, -1, *x.shape[1:])).flatten(0, 1)
        >>> known_step_mode(Folded(step_mode="m")) is None
        True
    """
    owner = next(cls for cls in type(neuron).__mro__ if "forward" in vars(cls))
    if not owner.__module__.startswith("spikingjelly.") or "forward" in vars(neuron):
        return None
    mode = getattr(neuron, "step_mode", None)
    return mode if mode in ("s", "m") else None
