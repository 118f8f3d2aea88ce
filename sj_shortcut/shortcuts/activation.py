"""Whether an output is more than logits: log-probabilities, probabilities."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["activation_behind"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "LogSoftmaxBackward0": partial(torch.log_softmax, dim=-1),
    "SoftmaxBackward0": partial(torch.softmax, dim=-1),
    "SigmoidBackward0": torch.sigmoid,
    "LogSigmoidBackward0": nn.functional.logsigmoid,
}
# What may come between an activation and the loss: averages over time, and changes of shape.
_PASSED_OVER = (
    "Mean",
    "Sum",
    "Div",
    "Mul",
    "Add",
    "Select",
    "Slice",
    "Stack",
    "Cat",
    "Unbind",
    "View",
    "Reshape",
    "Unsafe",
    "Squeeze",
    "Unsqueeze",
    "Permute",
    "Transpose",
    "Clone",
    "ToCopy",
    "Alias",
    "_Join",
)
_MOST_NODES = 1000


def activation_behind(
    output: Tensor, criterion: Callable[..., Any]
) -> Callable[[Tensor], Tensor] | None:
    """What the heads' logits must go through to be of the kind that the criterion is given.

    Args:
        output: What the loss is given.
        criterion: The task loss. One that takes logits by itself needs nothing of the kind.

    Returns:
        The function, ``None`` if the output is logits.

    Example:
        >>> output = torch.log_softmax(torch.zeros(2, 4, requires_grad=True), -1)
        >>> activation_behind(output, nn.NLLLoss())(torch.zeros(1, 2)).exp()
        tensor([[0.5000, 0.5000]])
        >>> activation_behind(output, nn.CrossEntropyLoss()) is None
        True
    """
    if isinstance(criterion, nn.NLLLoss):
        return _ACTIVATIONS["LogSoftmaxBackward0"]
    if isinstance(criterion, nn.CrossEntropyLoss | nn.BCEWithLogitsLoss):
        return None
    waiting: list[Any] = [output.grad_fn]
    passed: set[Any] = set()
    while waiting and len(passed) < _MOST_NODES:
        node = waiting.pop()
        if node is None or node in passed:
            continue
        passed.add(node)
        name = node.name()
        if name in _ACTIVATIONS:
            return _ACTIVATIONS[name]
        if name.startswith(_PASSED_OVER):
            waiting.extend(before for before, _ in reversed(node.next_functions))
    return None
