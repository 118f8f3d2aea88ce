"""Run a model on the batches that a user passes, as the user would."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sj_shortcut.places import steps_in_one_call
from sj_shortcut.shortcuts.loss import ShortcutLoss
from sj_shortcut.torch_model import first_tensor
from sj_shortcut.torch_model.preserve import preserved

__all__ = [
    "Forward",
    "as_in_training",
    "called_each_step",
    "checked_loss",
    "is_single",
    "moved_to",
    "output_of",
    "pairs",
    "run",
]

Forward = Callable[[nn.Module, Any], Tensor]


@contextmanager
def as_in_training(model: nn.Module, loss_fn: Callable[[Any, Any], Any]) -> Iterator[None]:
    """Let a model run as it trains, and have it and the loss afterwards as they were."""
    kept = [module for module in (model, loss_fn) if isinstance(module, nn.Module)]
    with preserved(*kept), torch.enable_grad(), torch.compiler.set_stance("force_eager"):
        if not model.training:
            model.train()
        if isinstance(loss_fn, ShortcutLoss):
            # A schedule may learn from each loss; what is measured here is not training.
            loss_fn.schedule = copy.deepcopy(loss_fn.schedule)
        yield


def output_of(
    model: nn.Module,
    x: Any,
    y: Any,
    loss_fn: Callable[[Any, Any], Any],
    forward: Forward | None,
    neuron_types: tuple[type, ...],
) -> Any:
    """What a loss takes of a batch: by ``forward``, or as it can be told from model and batch.

    Args:
        model: The model.
        x: The batch.
        y: Its labels.
        loss_fn: The loss, which takes ``[T, N, K]`` where its ``per_step`` is true.
        forward: The user's own way from ``(model, x)``.
        neuron_types: Spiking neuron classes of the user's.

    Raises:
        ValueError: If it cannot be told.
    """
    if forward is not None:
        return forward(model, x)
    each_step = called_each_step(model, x, y, neuron_types)
    return run(model, x, each_step, averaged=not getattr(loss_fn, "per_step", False))


def checked_loss(loss: Any) -> Tensor:
    """The loss, if it is one.

    Raises:
        ValueError: If it is no scalar that depends on the weights.
    """
    if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
        what = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            "loss_fn(output, y) must return a scalar tensor that depends on the weights, got "
            f"{what}{' without a graph' if isinstance(loss, Tensor) and not loss.ndim else ''}."
        )
    return loss


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


def called_each_step(model: nn.Module, x: Any, y: Any, neuron_types: tuple[type, ...]) -> bool:
    """Whether the model is to be called once a time step of ``x``, or once in all.

    Args:
        model: The model.
        x: The batch.
        y: Its labels, whose number tells the batch axis of ``x``.
        neuron_types: Spiking neuron classes of the user's.

    Raises:
        ValueError: If that cannot be told.
    """
    lead = first_tensor(x)
    if not isinstance(x, Tensor | tuple) or lead is None or not lead.ndim:
        return False
    steps = steps_in_one_call(model, x, neuron_types)
    if steps is True:
        return False  # it has time of its own, or a loop over time inside
    if steps is None:
        return isinstance(x, Tensor)  # it does not take the batch as a whole
    samples = len(y) if isinstance(y, Tensor) and y.ndim else None
    first, second = lead.shape[0] == samples, lead.ndim > 1 and lead.shape[1] == samples
    if isinstance(x, tuple):
        return second  # and :func:`run` tells that it cannot take a tuple apart
    if lead.ndim == 1:
        return not first  # likewise
    if first != second:
        return second
    if steps_in_one_call(model, x[0], neuron_types) is None:
        return False
    if samples is None or not first:
        return True
    raise ValueError(
        f"one call of the model is one time step (step mode 's'), and whether x {tuple(x.shape)} "
        f"for {samples} labels is [T, N, ...] or a single step [N, ...] cannot be told: say with "
        "forward= how to get from (model, x) to the output, such as forward=lambda model, x: "
        "torch.stack([model(step) for step in x]).mean(0)."
    )


def pairs(batches: Any) -> Iterator[tuple[Any, Any]]:
    """The batches one by one, be they one pair ``(x, y)`` or an iterable of pairs.

    Raises:
        TypeError: If they are neither.
        ValueError: If one is no pair.
    """
    if _is_pair(batches):
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


def is_single(batches: Any) -> bool:
    """Whether it is known beforehand that there is but one batch."""
    return _is_pair(batches) or (isinstance(batches, tuple | list) and len(batches) == 1)


def _is_pair(batches: Any) -> bool:
    is_pair = isinstance(batches, tuple | list) and len(batches) == 2
    return is_pair and isinstance(batches[0], Tensor)


def moved_to(data: Any, device: torch.device) -> Any:
    """A tensor, or those in a tuple, on a device; anything else as it is."""
    if isinstance(data, tuple):
        return tuple(moved_to(item, device) for item in data)
    return data.to(device) if isinstance(data, Tensor) else data
