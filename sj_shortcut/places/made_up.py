"""Make up an input for a model of which nothing is known but its modules."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sj_shortcut.neurons.calls import known_step_mode
from sj_shortcut.places.example_pass import WEIGHT_LAYERS
from sj_shortcut.torch_model import untouched_rng

__all__ = ["made_up_inputs"]

# Sizes unlike each other, and unlike the channels of images and events.
_STEPS, _SAMPLES, _TOKENS = 4, 5, 7
_SIDES = (32, 28, 34, 48, 64, 16, 128, 224, 8)
# Rows that hold whole time steps where a model folds time into the batch.
_ROWS = (24, 40)


def made_up_inputs(model: nn.Module) -> Iterator[Tensor]:
    """Inputs that a model may take, the likeliest first; none if it has no layer with weights.

    The first layer with weights gives channels and the number of axes. Whether time comes first,
    second or not at all is tried out.

    Args:
        model: The model.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 2))
        >>> tuple(next(made_up_inputs(model)).shape)
        (5, 3, 32, 32)
    """
    first = next((m for m in model.modules() if isinstance(m, WEIGHT_LAYERS)), None)
    if first is None or is_lazy(first.weight):
        return
    timed = any(known_step_mode(m) == "m" for m in model.modules() if hasattr(m, "step_mode"))
    leads = [(_STEPS, _SAMPLES), (_SAMPLES,), (_SAMPLES, _STEPS)]
    if not timed:
        leads = [leads[1], leads[2], leads[0]]
    if isinstance(first, nn.Linear):
        leads += [(_SAMPLES, _TOKENS)]
        shapes = [(*lead, first.in_features) for lead in leads]
        shapes += [(rows, first.in_features) for rows in _ROWS]
    else:
        width, space = first.in_channels, len(first.kernel_size)
        shapes = [(*lead, width, *[side] * space) for side in _SIDES for lead in leads]
        shapes += [(rows, width, *[side] * space) for rows in _ROWS for side in _SIDES[:2]]
    for shape in shapes:
        with untouched_rng():
            x = torch.rand(shape, device=first.weight.device, dtype=torch.float32)
        yield 2 * x.to(first.weight.dtype)
