"""Step modes, and the containers of SpikingJelly that change what a call inside them means."""

from __future__ import annotations

from typing import Literal

from spikingjelly.activation_based import base, layer
from torch import nn

from sj_shortcut.neurons.families import is_spiking_neuron

__all__ = [
    "FOLDING",
    "LOOPING",
    "TIME_LAST",
    "StepMode",
    "layer_classes",
    "step_mode_of",
    "step_mode_owner",
    "time_loop",
]

StepMode = Literal["s", "m"]


def layer_classes(*names: str) -> tuple[type[nn.Module], ...]:
    """Classes of ``spikingjelly.activation_based.layer`` by name, leaving out what is not there.

    Example:
        >>> [cls.__name__ for cls in layer_classes("SeqToANNContainer", "FromTheFuture")]
        ['SeqToANNContainer']
    """
    return tuple(getattr(layer, name) for name in names if hasattr(layer, name))


# They call what is in them once, with time and batch on one axis.
FOLDING = layer_classes("SeqToANNContainer")
# Time is the last axis of what goes in and comes out.
TIME_LAST = layer_classes("TLastSeqToANNContainer", "TLastMultiStepContainer")
# They can call what is in them once a time step. StepModeContainer does so if it is stateful, and
# else folds time into the batch; which of the two it does is told by the instance alone.
LOOPING = layer_classes(
    "MultiStepContainer",
    "StepModeContainer",
    "ElementWiseRecurrentContainer",
    "LinearRecurrentContainer",
)

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


def step_mode_owner(module: nn.Module, neuron_types: tuple[type, ...] = ()) -> str | None:
    """Dotted path, relative to ``module``, of the module whose step mode its output follows.

    That is the module itself where it has a step mode, else the first neuron or container in it.

    Args:
        module: A neuron, a block or a chain of layers.
        neuron_types: Classes to take for spiking neurons besides SpikingJelly's.

    Returns:
        The path, empty for the module itself; ``None`` where there is no such module, as in a block
        whose neurons are of a class without a step mode.

    Example:
        >>> from spikingjelly.activation_based import layer, neuron
        >>> step_mode_owner(nn.Sequential(layer.Linear(2, 2), neuron.LIFNode()))
        '1'
    """
    if step_mode_of(module) is not None:
        return ""
    for name, child in module.named_modules():
        # A container before what is in it, which it may call in a step mode of its own.
        is_container = isinstance(child, (nn.Sequential, *LOOPING))
        if is_container or is_spiking_neuron(child, neuron_types):
            if step_mode_of(child) is not None:
                return str(name)
    return None


def time_loop(root: nn.Module, name: str) -> str | None:
    """Dotted path of the outermost container above a module that can call it once a time step.

    Args:
        root: The model.
        name: Dotted path of the module in it.

    Returns:
        The path, empty for the model itself; ``None`` where no container does.

    Example:
        >>> from spikingjelly.activation_based import layer, neuron
        >>> time_loop(nn.Sequential(layer.MultiStepContainer(neuron.IFNode())), "0.0")
        '0'
    """
    parts = name.split(".")
    paths = (".".join(parts[:i]) for i in range(len(parts)))
    return next((path for path in paths if _loops(root.get_submodule(path))), None)


def _loops(container: nn.Module) -> bool:
    if not isinstance(container, LOOPING):
        return False
    return bool(getattr(container, "stateful", True))
