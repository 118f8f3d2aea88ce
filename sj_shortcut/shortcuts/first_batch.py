"""Look at the first real batch: on which axes the features of the heads lie, and in what order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from sj_shortcut.places import Layout, Look, layout_for, look_at, parse_layout
from sj_shortcut.shortcuts.forwards import Forwards
from sj_shortcut.torch_model import is_distributed, is_sharded, tensors_in

__all__ = ["kind_of_input", "look_if_needed", "settle"]

# Where a batch is too small to tell, so many further ones of other shapes are tried.
_MOST_LOOKS = 4
_SAY_IT = 'say it with layout=, such as layout="TNC...", in wrap_with_shortcuts.'


def look_if_needed(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], forwards: Forwards
) -> None:
    """Establish the axes for inputs of a kind that was not looked at before.

    Args:
        model: The wrapped model, about to run.
        args: What it was called with.
        kwargs: Likewise.
        forwards: Takes layouts and order.

    Raises:
        RuntimeError: If a tapped module has no one depth, or does not lead to the output.
        ValueError: If a head cannot be right for another reason.
    """
    kind = _kind(args, kwargs, forwards)
    if kind == forwards.looked_at:
        return
    if any(is_sharded(module) for module in model.modules()):
        forwards.looked_at = kind  # a pass of one's own would disturb it: as seen when wrapping
        return
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return
    sizes = [tuple(tensor.shape) for tensor in tensors_in((args, dict(kwargs)))]
    if sizes in forwards.unclear or len(forwards.unclear) > _MOST_LOOKS:
        return
    try:
        # A checkpoint around the model must not count what the gradients of a look need.
        with saved_tensors_hooks(Tensor.detach, _as_it_is):
            look = look_at(
                model,
                args,
                kwargs,
                forwards.names,
                neuron_types=forwards.neuron_types,
                num_classes=forwards.num_classes or forwards.told_classes,
            )
    except Exception as error:  # the forward to come will say what is wrong with this input
        forwards.failed_look = f"{type(error).__name__}: {error}"
        if all(forwards.layouts.get(name) is not None for name in forwards.names):
            forwards.unclear.append(sizes)
        return
    forwards.failed_look = ""
    settle(look, forwards)
    if not is_distributed() and not look.shapes.keys() >= set(forwards.names):
        forwards.unclear.append(None)  # a part was left out: the next batch may run it
        return
    layouts = [forwards.layouts.get(name) for name in forwards.names]
    # With several processes one look must do: all have to run the model equally often.
    if is_distributed() or all(layout is not None and layout.sure for layout in layouts):
        forwards.looked_at = _kind(args, kwargs, forwards)
    else:
        forwards.unclear.append(sizes)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _kind(args: tuple[Any, ...], kwargs: Mapping[str, Any], forwards: Forwards) -> Any:
    """The kind of an input, with its sizes where they tell how many time steps are folded."""
    kind = kind_of_input(args, kwargs, forwards.step_mode)
    folded = any(layout is not None and layout.folded for layout in forwards.layouts.values())
    if not folded or is_distributed():
        return kind
    return kind, [tuple(tensor.shape) for tensor in tensors_in((args, dict(kwargs)))]


def kind_of_input(args: tuple[Any, ...], kwargs: Mapping[str, Any], step_mode: str) -> Any:
    """What two batches must have in common for the same axes to hold."""
    return step_mode, tuple(tensor.ndim for tensor in tensors_in((args, dict(kwargs))))


def settle(look: Look, forwards: Forwards) -> None:
    """Take over what a look has shown of the tapped modules.

    Raises:
        RuntimeError: If a tapped module has no one depth, or does not lead to the output.
        ValueError: If a head cannot be right for another reason.
    """
    if look.refusal:
        ran = look.shapes.keys() & set(forwards.names)
        if not look.spiking and all(forwards.layouts.get(name) for name in ran):
            return  # all spiking layers were left out, and without them time looks like positions
        raise ValueError(look.refusal)
    expected = forwards.num_classes
    if expected is not None and look.num_classes not in (None, expected):
        raise ValueError(
            f"the model gave {look.num_classes} classes but its last layers looked like {expected} "
            "classes: pass num_classes= or example_input= to wrap_with_shortcuts."
        )
    layouts = {name: _layout(name, look, forwards) for name in forwards.names}
    forwards.layouts.update({name: layout for name, layout in layouts.items() if layout})
    left_out = set(forwards.names) - look.shapes.keys()
    forwards.reach = [reached | left_out for reached in look.reach]
    place = {name: i for i, name in enumerate(look.order)}
    forwards.names.sort(key=lambda name: place.get(name, len(place)))


def _layout(name: str, look: Look, forwards: Forwards) -> Layout | None:
    shape = look.shapes.get(name)
    if shape is None:  # it did not run, as a part that is left out in eval mode
        return None
    if name in look.repeated:
        raise RuntimeError(f"'{name}' was {look.repeated[name]}. Choose another point with at=.")
    if not look.leads_to_logits(name):
        raise RuntimeError(
            f"the model's output does not depend on '{name}', which sits on a side branch: a "
            "shortcut head there would train nothing below the output. Choose points with at=, or "
            "pass example_input= to wrap_with_shortcuts."
        )
    told, seen = layout_for(forwards.layout, name), look.layouts.get(name)
    if told is not None:
        return parse_layout(told, len(shape), seen.folded or None if seen is not None else None)
    known = forwards.layouts.get(name)
    if seen is None and known is not None and known.ndim == len(shape):
        return replace(known, sure=False)  # what is inside was left out this time
    if seen is None:
        raise ValueError(
            f"which axis of the output of '{name}' {shape} is time, batch or channels could not be "
            f"seen: {look.mixed or _SAY_IT}"
        )
    channels = forwards.channels.get(name)
    if not seen.sure and known is not None and known.ndim == len(shape):
        seen = _as_known(seen, known, shape)
    if channels not in (None, seen.channels(shape)):
        raise ValueError(
            f"the shortcut head at '{name}' was made for {channels} channels, but its point gave "
            f"{shape}, seen as {seen}, with {seen.channels(shape)}. Pass example_input= to "
            "wrap_with_shortcuts, or layout= if the axes were misread."
        )
    return seen


def _as_known(guess: Layout, known: Layout, shape: tuple[int, ...]) -> Layout:
    """A guess, by what was known where sizes were not equal by chance, or layers fired."""
    if known.batch == guess.batch and known.has_time and not guess.has_time:
        return replace(known, sure=False)
    alike = known.channel not in (guess.batch, guess.time)
    if alike and shape[known.channel] == guess.channels(shape):
        return replace(guess, channel=known.channel)
    return guess
