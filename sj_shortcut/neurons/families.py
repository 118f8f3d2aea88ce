"""Which modules are layers of spiking neurons."""

from __future__ import annotations

from spikingjelly.activation_based import neuron
from torch import nn

__all__ = ["SPIKING_FAMILIES", "is_spiking_neuron"]

# SpikingJelly's spiking neurons have no common base class: these are the roots of their families.
SPIKING_FAMILIES = tuple(
    getattr(neuron, name)
    for name in (
        "BaseNode",
        "SimpleBaseNode",
        "ILCBaseNode",
        "NoisyBaseNode",
        "ActivationAwareIFNode",
        "DSRIFNode",
        "DSRLIFNode",
        "FewSpikeNode",
        "FlexSN",
        "GatedLIFNode",
        "MaskedPSN",
        "PSN",
        "STBIFNode",
        "SlidingPSN",
    )
    if hasattr(neuron, name)
)


def is_spiking_neuron(module: nn.Module, extra: tuple[type, ...] = ()) -> bool:
    """Tell whether a module is a layer of spiking neurons.

    SpikingJelly's neurons do not share one base class, so this knows all their families, and users'
    subclasses with them. Surrogate functions, which are children of neurons, are none, nor is any
    class with ``NonSpiking`` in its own name or in that of a class it derives from: such classes
    put out membrane potentials, and many derive from ``LIFNode``.

    Args:
        module: The module to judge.
        extra: Further classes whose instances count as spiking neurons, whatever they are called.

    Returns:
        True for a layer of spiking neurons.

    Example:
        >>> from spikingjelly.activation_based import neuron
        >>> is_spiking_neuron(neuron.LIFNode())
        True
        >>> is_spiking_neuron(neuron.LIFNode().surrogate_function)
        False
    """
    if isinstance(module, extra):
        return True
    if any("NonSpiking" in cls.__name__ for cls in type(module).__mro__):
        return False
    return isinstance(module, SPIKING_FAMILIES)
