"""The losses of the output and of all heads by one call of the criterion.

Criteria of PyTorch's average over samples. Without that average they take the logits of all heads
as so many samples more; the average of each head is one sum over its own. So all losses, and the
gradients of all logits, take as many kernels as two of them. The gradients are the same to the bit
where weights are 1, and to a rounding elsewhere.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sj_shortcut.torch_model import is_plain

__all__ = ["stacked_losses"]

_OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.BCEWithLogitsLoss, nn.KLDivLoss)
_MEAN = 1  # how PyTorch numbers its reductions


def stacked_losses(
    criterion: Callable[..., Any], logits: Sequence[Tensor], target: Any
) -> Tensor | None:
    """What the criterion gives for each of several logits, in one go.

    Args:
        criterion: The task loss.
        logits: ``[N, K]`` each, or ``[T, N, K]`` to average over time.
        target: ``[N]`` or ``[N, K]``, for all alike.

    Returns:
        As many losses as logits, or ``None`` where each must be computed by itself: for a criterion
        of the user's own, a subclass or one with hooks, and for targets that would be broadcast.

    Example:
        >>> criterion, target = nn.CrossEntropyLoss(), torch.tensor([0, 1])
        >>> logits = [torch.eye(2), torch.zeros(2, 2)]
        >>> stacked_losses(criterion, logits, target)
        tensor([0.3133, 0.6931])
        >>> [criterion(one, target).item() for one in logits]
        [0.3132..., 0.6931...]
    """
    kind, first = type(criterion), logits[0]
    if kind not in (*_OF_CLASSES, *_ELEMENTWISE) or torch.compiler.is_compiling():
        return None
    assert isinstance(criterion, nn.Module)
    if not is_plain(criterion, kind) or criterion.reduction == "none" or not first.numel():
        return None
    if not isinstance(target, Tensor) or target.device != first.device:
        return None
    if any(
        (x.shape, x.dtype, x.device) != (first.shape, first.dtype, first.device) for x in logits
    ):
        return None
    each_of = _each_of_classes if kind in _OF_CLASSES else _each_element
    without_reduction = copy.copy(criterion)
    without_reduction.reduction = "none"
    each = each_of(without_reduction, torch.stack(list(logits)), target)
    return None if each is None else _reduced(criterion, each.view(len(logits), -1), first, target)


def _each_element(criterion: nn.Module, logits: Tensor, target: Tensor) -> Tensor | None:
    if target.shape != logits.shape[-2:]:
        return None
    each: Tensor = criterion(logits, target.expand_as(logits))
    return each


def _each_of_classes(criterion: nn.Module, logits: Tensor, target: Tensor) -> Tensor | None:
    probable = target.is_floating_point()
    if target.ndim != 1 + probable or (probable and type(criterion) is nn.NLLLoss):
        return None
    copies = logits.shape[:-2].numel()
    each: Tensor = criterion(logits.flatten(0, -2), target.repeat(copies, *[1] * probable))
    return each


def _reduced(criterion: nn.Module, each: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """The losses of each of several logits in the way that the criterion says."""
    steps = logits.shape[:-2].numel()
    if criterion.reduction != "mean":
        samples = len(target) if criterion.reduction == "batchmean" else 1
        return each.sum(1) / (steps * samples)
    if type(criterion) in _ELEMENTWISE or target.is_floating_point():
        return each.mean(1)
    # Samples of an ignored class do not count, and those of weighted classes count for more or
    # less. PyTorch's kernel of the mean gives what it divides by along with it.
    assert isinstance(criterion, _OF_CLASSES)
    weight = criterion.weight
    some = logits.detach().reshape(steps, *logits.shape[-2:])[0]
    some = some.to(each.dtype if weight is None else weight.dtype)
    _, count = torch.ops.aten.nll_loss_forward(some, target, weight, _MEAN, criterion.ignore_index)
    # Divided before they are added up: the gradient is written at its full size just once.
    means: Tensor = (each / (count if steps == 1 else steps * count)).sum(1)
    return means
