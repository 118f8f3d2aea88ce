"""Hang what a forward gave on the model's output, and find it again behind an output."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from sj_shortcut.shortcuts.forwards import Record

__all__ = ["join", "records_behind"]


class _Join(torch.autograd.Function):
    """Identity on the output that makes it depend on the logits, which get no gradient from it.

    No gradient rather than zeros: it costs nothing, and zeros would meet a head's NaN. A copy of
    the output rather than a view of it, so that code such as ``output /= T`` goes on working.
    """

    generate_vmap_rule = True  # for gradients sample by sample, with torch.func

    @staticmethod
    def forward(output: Tensor, *logits: Tensor) -> Tensor:
        return output.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.logits = len(inputs) - 1
        ctx.shortcut_record = None

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if ctx.shortcut_record is not None:
            ctx.shortcut_record[0].spent = True
        return (grads[0], *[None] * ctx.logits)


def join(output: Tensor, record: Record, index: int) -> Tensor:
    """Hang the logits of a forward on one tensor of the model's output.

    Args:
        output: The tensor.
        record: The record of the forward.
        index: Which of the floating-point tensors of the output it is.
    """
    logits = [logits for logits in record.all_logits() if logits.requires_grad]
    joined: Tensor = _Join.apply(output, *logits)
    if not torch.compiler.is_compiling() and joined.grad_fn is not None:
        joined.grad_fn.shortcut_record = (record, index)  # type: ignore[attr-defined]
    return joined


def records_behind(
    output: Tensor, compiled: Iterable[Record] = ()
) -> tuple[list[tuple[Record, int | None]], set[Any]]:
    """The records of the forwards that an output comes from, in the order of its terms.

    Args:
        output: What the loss is given: a model's output, or made of several.
        compiled: Records of compiled code, where what is given back comes from nodes of its own.

    Returns:
        The records, each with the number of the model's output it came by, which compiled code does
        not tell, and all nodes of the graph that were passed on the way.
    """
    found: dict[int, tuple[Record, int | None]] = {}
    passed: set[Any] = set()
    of_node = {node: (record, None) for record in compiled for node in record.nodes()}
    for node in _walk(output.grad_fn, passed, of_node):
        record = getattr(node, "shortcut_record", None) or of_node.get(node)
        if record is not None:
            found.setdefault(id(record[0]), record)
    return list(found.values()), passed


def _walk(root: Any, passed: set[Any], ends: Container[Any]) -> Iterator[Any]:
    """Nodes in front of a graph, depth first, not going behind those that carry a record."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node is None or node in passed:
            continue
        passed.add(node)
        yield node
        if getattr(node, "shortcut_record", None) is None and node not in ends:
            waiting.extend(before for before, _ in reversed(node.next_functions))
