"""Whether an output is more than logits: log-probabilities, probabilities, and the like."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["activation_behind", "is_told", "no_logits"]

_LOG_SOFTMAX, _LOG_SIGMOID = "LogSoftmaxBackward0", "LogSigmoidBackward0"
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    _LOG_SOFTMAX: partial(torch.log_softmax, dim=-1),
    "SoftmaxBackward0": partial(torch.softmax, dim=-1),
    "SigmoidBackward0": torch.sigmoid,
    _LOG_SIGMOID: nn.functional.logsigmoid,
    "TanhBackward0": torch.tanh,
    "ExpBackward0": torch.exp,
    "SoftplusBackward0": nn.functional.softplus,
    "ReluBackward0": torch.relu,
}
_LOGS = {"SoftmaxBackward0": _LOG_SOFTMAX, "SigmoidBackward0": _LOG_SIGMOID}
# Outputs that are no logits, of which sums mean nothing.
_NO_LOGITS = {
    _LOG_SOFTMAX: "log-probabilities (log_softmax)",
    "SoftmaxBackward0": "probabilities (softmax)",
    _LOG_SIGMOID: "log-probabilities (logsigmoid)",
    "SigmoidBackward0": "probabilities (sigmoid)",
}
# What may come between an activation and the loss: averages over time, and changes of shape.
_PASSED_OVER = (
    "Mean",
    "Sum",
    "Add",
    "Max",
    "Amax",
    "Clamp",
    "Index",
    "Select",
    "Slice",
    "Split",
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
    "_DDPSink",
    "BackwardHookFunction",
)
# This too, which joins the heads' logits to the model's output: that is the first that it is given.
_JOIN = "_Join"
# These too, if they scale by a constant: a gate is a part of the network.
_SCALES = ("Mul", "Div")


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
        return _ACTIVATIONS[_LOG_SOFTMAX]
    if isinstance(criterion, (nn.CrossEntropyLoss, nn.BCEWithLogitsLoss)):
        return None
    return _ACTIVATIONS.get(_origin(output.grad_fn))


def is_told(criterion: Callable[..., Any]) -> bool:
    """Whether a criterion alone says so, whatever is behind an output."""
    # A tuple, as PyTorch 2.6 cannot trace a union of types.
    return isinstance(criterion, (nn.NLLLoss, nn.CrossEntropyLoss, nn.BCEWithLogitsLoss))


def no_logits(output: Tensor) -> str:
    """What an output is instead of logits; empty where it may be logits.

    Args:
        output: What the loss is given.

    Example:
        >>> no_logits(torch.softmax(torch.zeros(2, 4, requires_grad=True), -1))
        'probabilities (softmax)'
    """
    return _NO_LOGITS.get(_origin(output.grad_fn), "")


def _origin(node: Any) -> str:
    """Name of the operation that all parts of an output come from; empty if they differ."""
    waiting, passed = [node], set()
    names: set[str] = set()
    while waiting and len(names) < 2:
        node = waiting.pop()
        if node is None or node in passed:
            continue
        passed.add(node)
        name = node.name()
        before = [earlier for earlier, _ in node.next_functions if earlier is not None]
        if name.startswith(_JOIN):
            waiting += before[:1]
        elif name.startswith(_PASSED_OVER) or (name.startswith(_SCALES) and len(before) == 1):
            waiting += before
        elif name.startswith("LogBackward"):
            names.add(_LOGS.get(_origin(before[0]), name))
        else:
            names.add(name)
    return names.pop() if len(names) == 1 else ""
