"""The currents into spiking layers, for heads that read these rather than spikes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sj_shortcut.neurons import is_spiking_neuron
from sj_shortcut.places import ShortcutPoint
from sj_shortcut.shortcuts.forwards import Forwards
from sj_shortcut.torch_model import first_tensor, is_checkpointed, tensors_in

__all__ = ["current_into", "last_neurons"]

# Where a checkpoint of PyTorch's or memopt's keeps the module that it runs.
_CHECKPOINTED = "._checkpoint_wrapped_module"


def last_neurons(
    chosen: list[ShortcutPoint],
    points: list[ShortcutPoint],
    model: nn.Module,
    neuron_types: tuple[type, ...],
) -> list[ShortcutPoint]:
    """The last spiking layer inside each point, which has currents to read.

    Args:
        chosen: Where heads were to sit.
        points: All points, in the order of execution.
        model: The model.
        neuron_types: Spiking neuron classes of the user's.

    Raises:
        ValueError: If none is known there, its feature is not that of its point, or its input is
            not what its neurons integrate.
    """
    # In the order of execution, which need not be that of definition.
    spiking = [p for p in points if is_spiking_neuron(model.get_submodule(p.name), neuron_types)]
    known, found = {point.name: point for point in points}, []
    for point in chosen:
        inside = [p for p in spiking if f"{p.name}.".startswith(f"{point.name}.")]
        neuron = inside[-1] if inside else point
        why = _why_not(model, neuron.name)
        same = (neuron.channels, neuron.spatial) == (point.channels, point.spatial)
        if not inside or not neuron.usable or not same or why:
            raise ValueError(
                f"the last spiking layer inside '{point.name}' ('{neuron.name}') has no currents "
                f"that a head could read in place of the point's spikes{why}: name spiking layers "
                'with at=, or leave reads="spikes".'
            )
        neuron = known.get(neuron.name.removesuffix(_CHECKPOINTED), neuron)
        if neuron not in found:
            found.append(neuron)
    return found


def current_into(args: tuple[Any, ...], output: Any, name: str, forwards: Forwards) -> Tensor:
    """What a spiking layer was given to integrate.

    Args:
        args: Its arguments, among which may be its state, before or behind the current.
        output: What it gave, of which the axes are known.
        name: The point.
        forwards: Knows which of the arguments it is, once one call has told.

    Raises:
        TypeError: If there is no tensor among the arguments.
        ValueError: If it has not the shape of the output, so that its axes are not known.
    """
    at = forwards.current_at.get(name)
    if at is None:
        at = _place(args, name, forwards)
    current, given = first_tensor(args[at] if at < len(args) else ()), first_tensor(output)
    if current is None:
        raise TypeError(
            f"the input of '{name}', as it is called in forward, is a {type(args).__name__} "
            "without a tensor, and a shortcut head needs one: choose another point with at=."
        )
    if given is None or given.shape != current.shape:
        seen = None if given is None else tuple(given.shape)
        raise ValueError(
            f"'{name}' is given {tuple(current.shape)} and gives {seen}: a head can read the "
            "currents of layers that leave the shape as it is. Choose other points with at=, or "
            'leave reads="spikes".'
        )
    return current


def _place(args: tuple[Any, ...], name: str, forwards: Forwards) -> int:
    """Which argument is the current: at the first step a state is none, or hangs on nothing."""
    tensors = {i: list(tensors_in(arg)) for i, arg in enumerate(args)}
    filled = [i for i, found in tensors.items() if found]
    if len(filled) > 1:
        graded = [i for i in filled if any(tensor.requires_grad for tensor in tensors[i])]
        if not graded:
            return filled[0]  # a call with gradients is to tell
        filled = graded
    if filled and len(args) > 1:
        forwards.current_at[name] = filled[0]
    return filled[0] if filled else 0


def _why_not(model: nn.Module, name: str) -> str:
    """What keeps the input of a spiking layer from being read as its current."""
    neuron = model.get_submodule(name)
    inner = [module for module in neuron.modules() if module is not neuron]
    if any(p.ndim > 1 for module in inner for p in module.parameters(recurse=False)):
        return ", as it holds weights of its own"
    if is_checkpointed(model, name.removesuffix(_CHECKPOINTED).rpartition(".")[0]):
        return ", as a checkpoint around it may run it without its hooks"
    return ""
