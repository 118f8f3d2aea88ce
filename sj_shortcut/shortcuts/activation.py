"""Whether an output is more than logits: log-probabilities, probabilities, and the like."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sj_shortcut.torch_model import ending_of

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
# Outputs that are no logits, of which sums mean nothing.
_NO_LOGITS = {
    _LOG_SOFTMAX: "log-probabilities (log_softmax)",
    "SoftmaxBackward0": "probabilities (softmax)",
    _LOG_SIGMOID: "log-probabilities (logsigmoid)",
    "SigmoidBackward0": "probabilities (sigmoid)",
}
# Criteria, as classes and as functions, that say by themselves what they take.
_LOG_PROBABILITIES = ((nn.NLLLoss,), (nn.functional.nll_loss,))
_LOGITS = (
    (nn.CrossEntropyLoss, nn.BCEWithLogitsLoss),
    (nn.functional.cross_entropy, nn.functional.binary_cross_entropy_with_logits),
)


def activation_behind(
    output: Tensor, criterion: Callable[..., Any], compiled: str = ""
) -> Callable[[Tensor], Tensor] | None:
    """What the heads' logits must go through to be of the kind that the criterion is given.

    Args:
        output: What the loss is given.
        criterion: The task loss. One that takes logits by itself needs nothing of the kind.
        compiled: What the model's own output ends in, for outputs of compiled code, which hide it.

    Returns:
        The function, ``None`` if the output is logits.

    Example:
        >>> output = torch.log_softmax(torch.zeros(2, 4, requires_grad=True), -1)
        >>> activation_behind(output, nn.NLLLoss())(torch.zeros(1, 2)).exp()
        tensor([[0.5000, 0.5000]])
        >>> activation_behind(output, nn.CrossEntropyLoss()) is None
        True
    """
    if _takes(criterion, *_LOG_PROBABILITIES):
        return _ACTIVATIONS[_LOG_SOFTMAX]
    if _takes(criterion, *_LOGITS):
        return None
    return _ACTIVATIONS.get(ending_of(output, compiled))


def is_told(criterion: Callable[..., Any]) -> bool:
    """Whether a criterion alone says so, whatever is behind an output."""
    return _takes(criterion, *_LOG_PROBABILITIES) or _takes(criterion, *_LOGITS)


def _takes(criterion: Any, classes: tuple[type, ...], functions: tuple[Any, ...]) -> bool:
    while isinstance(criterion, partial):
        criterion = criterion.func
    return isinstance(criterion, classes) or any(criterion is each for each in functions)


def no_logits(output: Tensor, compiled: str = "") -> str:
    """What an output is instead of logits; empty where it may be logits.

    Args:
        output: What the loss is given.
        compiled: What the model's own output ends in.

    Example:
        >>> import torch
        >>> no_logits(torch.softmax(torch.zeros(2, 4, requires_grad=True), -1))
        'probabilities (softmax)'
    """
    return _NO_LOGITS.get(ending_of(output, compiled), "")
