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
_SIDES = (32, 28, 34, 48, 64, 16, 128, 224, 84, 8)
_SIDES_3D = (16, 8, 32)
# Where a model takes as many time steps as it was made for only, and does not say how many.
_OTHER_STEPS = (2, 3, 5, 6, 8, 10, 16, 20)
# What models call their number of time steps.
_NAMES_OF_STEPS = ("T", "t", "time_steps", "timesteps", "time_step", "num_steps", "steps")
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
    kinds = (*WEIGHT_LAYERS, nn.Embedding)
    first = next((m for m in model.modules() if isinstance(m, kinds)), None)
    if isinstance(first, nn.Embedding):
        yield from _made_up_text(first)
        return
    if first is None or is_lazy(first.weight):
        return
    timed = any(known_step_mode(m) == "m" for m in model.modules() if hasattr(m, "step_mode"))
    told, n = _told_steps(model), _samples(model)
    leads = [lead for steps in told or [_STEPS] for lead in _leads(steps, n, timed)]
    rows = [(steps * n,) for steps in told] + [(rows,) for rows in _ROWS]
    others = [lead for steps in _OTHER_STEPS for lead in _leads(steps, n, timed) if len(lead) > 1]
    if isinstance(first, nn.Linear):
        tails: list[tuple[int, ...]] = [(first.in_features,)]
        leads += [(n, _TOKENS), *((*lead, _TOKENS) for lead in leads if len(lead) == 2)]
    else:
        space = len(first.kernel_size)
        sides = _SIDES if space < 3 else _SIDES_3D
        tails = [(first.in_channels, *[side] * space) for side in sides]
    shapes = [(*lead, *tail) for tail in tails for lead in leads]
    shapes += [(*lead, *tail) for lead in rows + others for tail in tails[:2]]
    for shape in dict.fromkeys(shapes):
        with untouched_rng():
            x = torch.rand(shape, device=first.weight.device, dtype=torch.float32)
        yield 2 * x.to(first.weight.dtype)


def _made_up_text(first: nn.Embedding) -> Iterator[Tensor]:
    for shape in ((_SAMPLES, _TOKENS), (_STEPS, _SAMPLES, _TOKENS)):
        with untouched_rng():
            yield torch.randint(0, first.num_embeddings, shape, device=first.weight.device)


def _leads(steps: int, samples: int, timed: bool) -> list[tuple[int, ...]]:
    """What may come before channels, or features, the likeliest first."""
    time_first, batch_first = (steps, samples), (samples, steps)
    return [time_first, (samples,), batch_first] if timed else [(samples,), batch_first, time_first]


def _samples(model: nn.Module) -> int:
    """A batch size that fits what neurons of the user's remember, if only their user resets it."""
    kept = [v for m in model.modules() for v in vars(m).values() if isinstance(v, Tensor)]
    sizes = {len(value) for value in kept if value.ndim > 1}
    return sizes.pop() if len(sizes) == 1 and 1 < min(sizes) < 64 else _SAMPLES


def _told_steps(model: nn.Module) -> list[int]:
    """Numbers of time steps that a model or its parts have as an attribute."""
    found = [vars(m).get(name) for m in model.modules() for name in _NAMES_OF_STEPS]
    return list(dict.fromkeys(n for n in found if type(n) is int and 1 < n <= 64))[:2]
