"""Run a model on the batches that a user passes, as the user would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sj_shortcut.places.read_modules import find_loop, step_mode_of

__all__ = ["called_each_step", "moved_to", "pairs", "run"]


def run(model: nn.Module, x: Any, each_step: bool, averaged: bool) -> Any:
    """The model's output.

    Args:
        model: The model.
        x: Its input, a tuple of them, or with ``each_step`` a tensor ``[T, N, ...]``.
        each_step: Whether to call the model once a time step.
        averaged: Whether to average an output ``[T, N, K]`` over time.

    Raises:
        ValueError: If time steps are asked for and ``x`` has none.
    """
    if each_step:
        if not isinstance(x, Tensor) or x.ndim < 2:
            raise ValueError(
                "in step mode 's' x must be a tensor [T, N, ...], over whose first axis the model "
                "is called. Otherwise say with forward= how to get from (model, x) to the output."
            )
        output = torch.stack([model(step) for step in x])
    else:
        output = model(*x) if isinstance(x, tuple) else model(x)
    timed = isinstance(output, Tensor) and output.ndim == 3
    return output.mean(0) if timed and averaged else output


def called_each_step(model: nn.Module, neurons: Mapping[nn.Module, str]) -> bool:
    """Whether one call of the model runs one time step, given its spiking layers."""
    for module, name in neurons.items():
        if getattr(module, "step_mode", "m") == "s":
            loop = find_loop(model, name)
            if loop is None or step_mode_of(model.get_submodule(loop)) == "s":
                return True
    return False


def pairs(batches: Any) -> Iterator[tuple[Any, Any]]:
    """The batches one by one, be they one pair ``(x, y)`` or an iterable of pairs.

    Raises:
        TypeError: If they are neither.
        ValueError: If one is no pair.
    """
    if isinstance(batches, tuple | list) and len(batches) == 2 and isinstance(batches[0], Tensor):
        batches = [batches]
    if not isinstance(batches, Iterable) or isinstance(batches, Tensor):
        raise TypeError(
            f"batches must be one (x, y), or an iterable of them, got {type(batches).__name__}."
        )
    for i, batch in enumerate(batches):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(
                f"batch {i} must be a pair (x, y), got {type(batch).__name__}"
                f"{f' of {len(batch)}' if isinstance(batch, tuple | list) else ''}."
            )
        yield batch[0], batch[1]


def moved_to(data: Any, device: torch.device) -> Any:
    """A tensor, or those in a tuple, on a device; anything else as it is."""
    if isinstance(data, tuple):
        return tuple(moved_to(item, device) for item in data)
    return data.to(device) if isinstance(data, Tensor) else data
