"""Hang the record of a forward on the model's output, and find it there again.

The autograd node that joins the heads' logits to the model's output carries the record, so that the
loss finds it by walking back from the output it is given. Nothing stale can be used, and the record
goes with the graph.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from sj_shortcut.shortcuts.forwards import Record
from sj_shortcut.torch_model import map_tensors, tensors_in

__all__ = ["hang_on", "join", "records_behind"]


class _Join(torch.autograd.Function):
    """Identity on the output that makes it depend on the logits, which get no gradient from it.

    No gradient rather than zeros: it costs nothing, and zeros would meet a head's NaN. A copy of
    the output rather than a view of it, so that code such as ``output /= T`` goes on working.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, *logits: Tensor) -> Tensor:
        ctx.logits, ctx.shortcut_record = len(logits), None
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if ctx.shortcut_record is not None:
            ctx.shortcut_record[0].spent = True
        return (grads[0], *[None] * ctx.logits)


class _JoinAnywhere(torch.autograd.Function):
    """The same in a form that compilers and torch.func take, at a hundred calls of Python more."""

    generate_vmap_rule = True  # for gradients sample by sample

    @staticmethod
    def forward(output: Tensor, *logits: Tensor) -> Tensor:
        return output.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.logits, ctx.shortcut_record = len(inputs) - 1, None

    backward = _Join.backward


def hang_on(output: Any, record: Record) -> Any:
    """Hang a record on a model's output, whichever of its tensors a loss may use.

    Args:
        output: What the model gives, with its tensors in it.
        record: The record of this forward.

    Returns:
        A copy of the nest, its tensors joined to the heads' logits.

    Raises:
        TypeError: If there is no tensor in it that gradients could come from.
    """
    tensors = [t for t in tensors_in(output) if _can_carry(t)]
    if not tensors:
        raise TypeError(
            f"the model's output is a {type(output).__name__} without a tensor: shortcut heads "
            "need one to hang on. Return tensors, in a tuple, list, dict or dataclass."
        )
    # Whichever of them a loss uses finds the record; where none has a graph yet, the first does.
    none = not any(t.requires_grad for t in tensors)
    # Counted, not told apart by id(), on which compiled code would be compiled anew at each call.
    indices = iter(range(len(tensors)))

    def hang(tensor: Tensor) -> Tensor:
        if not _can_carry(tensor):
            return tensor
        index = next(indices)
        due = tensor.requires_grad or (none and index == 0)
        if not due:
            return tensor
        joined = join(tensor, record, index)
        if record.trace:
            from sj_shortcut.shortcuts.compiled import mark_join

            mark_join(joined, record)
            record.end = joined.sum()
        return joined

    return map_tensors(output, hang)


def _can_carry(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def join(output: Tensor, record: Record, index: int) -> Tensor:
    """Hang the logits of a forward, or what they come from, on one tensor of the model's output.

    Args:
        output: The tensor.
        record: The record of the forward.
        index: Which of the floating-point tensors of the output it is.
    """
    logits = [tensor for tensor in record.tensors() if tensor.requires_grad]
    compiling = torch.compiler.is_compiling()
    anywhere = compiling or torch._C._are_functorch_transforms_active()
    joined: Tensor = (_JoinAnywhere if anywhere else _Join).apply(output, *logits)
    if not compiling and joined.grad_fn is not None:
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
