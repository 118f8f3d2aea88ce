"""What spiking neurons remember from one time step to the next, and how it is forgotten."""

from __future__ import annotations

import copy

from spikingjelly.activation_based import base, functional
from torch import nn

__all__ = ["Resettable", "forget_reset_cache", "has_memory", "reset_states"]


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


def has_memory(module: nn.Module) -> bool:
    """Whether a module is one of SpikingJelly's that remember."""
    return isinstance(module, base.MemoryModule)


def reset_states(model: nn.Module) -> None:
    """Give every neuron and head a fresh memory, leaving the old tensors alone.

    ``functional.reset_net`` may write into tensors that a memory holds; inside
    :func:`~sj_shortcut.torch_model.preserve.preserved` they belong to the user. So the memories
    get new values first, and only then ``reset()`` runs.

    Args:
        model: The model.

    Example:
        >>> import torch
        >>> from spikingjelly.activation_based import neuron
        >>> lif = neuron.LIFNode()
        >>> lif.v = v = torch.ones(2)
        >>> reset_states(lif)
        >>> lif.v, v
        (0.0, tensor([1., 1.]))
    """
    for module in model.modules():
        if isinstance(module, base.MemoryModule):
            module._memories.update(copy.deepcopy(module._memories_rv))
        reset = getattr(module, "reset", None)
        if callable(reset):
            reset()


def forget_reset_cache(root: nn.Module) -> None:
    """Make the next ``functional.reset_net`` look for the modules to reset anew.

    SpikingJelly 2.0.0 remembers, for every module that ``reset_net`` was called on, which of its
    modules to reset. A module added later is not among them and would keep its memory for ever, so
    call this after adding or removing modules. Where nothing is remembered (0.0.0.0.14) it does
    nothing.

    Args:
        root: The module in which modules were added or removed. What is remembered for modules
            inside it, and for others that contain it or share modules with it, is forgotten too.

    Example:
        >>> from spikingjelly.activation_based import functional, neuron
        >>> net = nn.Sequential(nn.Linear(2, 2))
        >>> functional.reset_net(net)
        >>> net.append(neuron.LIFNode())[-1].v = 1.0
        >>> forget_reset_cache(net)
        >>> functional.reset_net(net)
        >>> net[-1].v
        0.0
    """
    invalidate = getattr(functional, "invalidate_reset_cache", None)
    if invalidate is None:
        return
    # SpikingJelly lists the roots it remembers in a private place only. Forgetting one too many
    # costs a walk over its modules, one too few a head that is never reset: so forget them all.
    net_config = getattr(functional, "net_config", None)
    remembered = getattr(net_config, "_RESET_MODULE_CACHE", ())
    for module in [*root.modules(), *remembered]:
        invalidate(module)
