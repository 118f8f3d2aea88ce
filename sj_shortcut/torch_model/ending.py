"""What an output ends in: the operation that it comes from, found in its graph."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["ending_of"]

# What the logarithms of these are.
_LOGS = {"SoftmaxBackward0": "LogSoftmaxBackward0", "SigmoidBackward0": "LogSigmoidBackward0"}
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
_COMPILED = "CompiledFunction"


def ending_of(output: Tensor, compiled: str = "") -> str:
    """Name of the operation that all parts of an output come from; empty if they differ.

    Averages over time, changes of shape and the like are passed over.

    Args:
        output: A model's output, or what was made of it.
        compiled: What to say of an output of compiled code, which hides its operations.

    Example:
        >>> import torch
        >>> ending_of(torch.softmax(torch.zeros(3, 2, 4, requires_grad=True), -1).mean(0))
        'SoftmaxBackward0'
    """
    return _origin(output.grad_fn, compiled)


def _origin(node: Any, compiled: str) -> str:
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
            names.add(_LOGS.get(_origin(before[0], compiled), name))
        else:
            names.add(compiled if name.startswith(_COMPILED) else name)
    return names.pop() if len(names) == 1 else ""
