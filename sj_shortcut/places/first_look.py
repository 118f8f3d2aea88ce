"""The first look at a model: on the user's example, or else on a batch made up for it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from sj_shortcut.places.looking import Look, look_at
from sj_shortcut.places.made_up import made_up_inputs

__all__ = ["first_look"]

# So many made-up batches may give no class logits before that is believed.
_MOST_REFUSALS = 6


def first_look(
    model: nn.Module,
    example_input: Any,
    names: Sequence[str],
    neuron_types: tuple[type, ...] = (),
    num_classes: int | None = None,
) -> Look | None:
    """A look on the example, or else on the first made-up batch that fits the model.

    A made-up batch may run through a model that means its axes otherwise. One whose samples do not
    show in the output says nothing of the model while another may.

    Args:
        model: The model.
        example_input: A batch as its forward takes it; ``None`` to make one up.
        names: The modules whose layout is wanted.
        neuron_types: Classes to take for spiking neurons besides SpikingJelly's.
        num_classes: Class count, where known.

    Returns:
        What was seen; ``None`` if no made-up batch fits.

    Raises:
        ValueError: If the model cannot run on ``example_input``.
    """
    settings: dict[str, Any] = {"neuron_types": neuron_types, "num_classes": num_classes}
    if example_input is None:
        return _on_made_up(model, names, settings)
    args = example_input if isinstance(example_input, tuple) else (example_input,)
    try:
        return look_at(model, args, {}, names, **settings)
    except Exception as error:
        raise ValueError(
            f"example_input could not be run through {type(model).__name__}: "
            f"{type(error).__name__}: {error}. Pass what the model's forward takes, "
            "[T, N, ...] in step mode 'm', [N, ...] in step mode 's'."
        ) from error


def _on_made_up(model: nn.Module, names: Sequence[str], settings: dict[str, Any]) -> Look | None:
    refused: list[Look] = []
    unclear, side, largest = None, 0, math.inf
    for x in made_up_inputs(model):
        if x.shape[-1] > largest:
            continue  # where this gave a map of classes, a smaller one may give one value a class
        if unclear is not None and x.shape[-1] != side:
            break
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an input that is not the user's
                look = look_at(model, (x,), {}, names, **settings)
        except Exception:  # anything, as the input is a guess
            continue
        if look.unbatched or look.main is None:
            continue
        if look.refusal:
            refused, largest = [*refused, _as_made_up(look, tuple(x.shape))], x.shape[-1]
            if len(refused) == _MOST_REFUSALS:
                break
        else:
            if all(look.layouts.values()) and not look.mixes:
                return look
            # Time and batch may be the other way round; an input of another kind would tell.
            unclear, side = unclear or look, x.shape[-1]
    if refused and unclear is not None and unclear.num_classes == 1:
        return refused[0]  # one number a sample is no row of logits, whichever way it is read
    return unclear or next(iter(refused), None)


def _as_made_up(look: Look, shape: tuple[int, ...]) -> Look:
    """Say of a refusal that the user's own batch may give another output."""
    hint = (
        f"This was seen on a made-up batch {list(shape)}: if yours is of another kind, pass "
        "example_input=."
    )
    return replace(look, refusal=f"{look.refusal} {hint}")
