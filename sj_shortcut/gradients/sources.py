"""Split a gradient by where it comes from: the model's output, each head, and anything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from sj_shortcut.gradients.columns import COLUMNS, Row
from sj_shortcut.shortcuts.join import records_behind
from sj_shortcut.torch_model import first_tensor, joint_norm, wide_dtype

__all__ = ["Gradients", "GradientsFrom", "inner_product", "share_columns", "split_by_source"]

# The gradient of each weight of each layer; ``None`` where none arrives.
Gradients = dict[str, list[Tensor | None]]
# Gradients of all layers, going back from tensors with the gradients there (default 1).
GradientsFrom = Callable[[Sequence[Tensor], Sequence[Tensor] | None], Gradients]

# Rounding errors of a gradient in single precision stay below this part of it.
_ROUNDING = 1e-5


def split_by_source(
    loss: Tensor, output: object, whole: Gradients, gradients: GradientsFrom
) -> Iterator[tuple[str, Gradients]]:
    """Name and gradients of each source; as vectors they add up to the whole.

    Args:
        loss: The loss.
        output: The model's output, as it went into the loss.
        whole: The gradients of the loss.
        gradients: Goes back through the model from a tensor.
    """
    rest = {name: list(grads) for name, grads in whole.items()}
    for source, ends, grads in _ends(loss, output):
        part = gradients(ends, grads) if ends else _none_like(whole)
        rest = {name: _difference(grads, part[name]) for name, grads in rest.items()}
        yield source, part
    if _matters(rest, whole):
        yield "other", rest


def share_columns(row: Row, source: str, along: float, square: float) -> Row:
    """The columns of one source.

    Args:
        row: The row so far.
        source: Name of the source.
        along: Inner product of its gradient with the whole one.
        square: Inner product of the whole gradient with itself.
    """
    if not math.isnan(square) and row["status"] in ("none", "frozen"):
        zeros = [column.name for column in COLUMNS.values() if column.zero_unreached]
        return {"source": source, "share": 0.0, **dict.fromkeys(zeros, 0.0)}
    return {"source": source, "share": along / square if square else math.nan}


def inner_product(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> Tensor | None:
    """Inner product of two gradients of a layer; ``None`` where they have no weight in common."""
    products = [
        (x.detach() * y.detach()).sum(dtype=wide_dtype(x))
        for x, y in zip(a, b, strict=True)
        if x is not None and y is not None
    ]
    return torch.stack(products).sum() if products else None


def _ends(loss: Tensor, output: object) -> Iterator[tuple[str, list[Tensor], list[Tensor]]]:
    """Where the network ends and the loss begins: name, tensors, and gradients of the loss there.

    A head ends in its logits; in the averages that it was given, where all heads were computed
    together. One that ran once a time step has them for each; without gradient they are left out.
    """
    main = first_tensor(output)
    if main is None or not main.requires_grad:
        return
    ends: dict[str, list[Tensor]] = {"main": [main]}
    for record, _ in records_behind(main)[0]:
        for name in record.forwards.names:
            tensors = record.averages.get(name) or record.logits.get(name, [])
            ends.setdefault(name, []).extend(tensors)
    every = [end for tensors in ends.values() for end in tensors if end.requires_grad]
    grads = torch.autograd.grad(loss, every, retain_graph=True, allow_unused=True)
    found = {id(end): grad for end, grad in zip(every, grads, strict=True)}
    for name, tensors in ends.items():
        reached = [end for end in tensors if found.get(id(end)) is not None]
        yield name, reached, [grad for end in reached if (grad := found[id(end)]) is not None]


def _none_like(gradients: Gradients) -> Gradients:
    return {name: [None] * len(grads) for name, grads in gradients.items()}


def _difference(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> list[Tensor | None]:
    pairs = zip(a, b, strict=True)
    return [x if x is None or y is None else x - y for x, y in pairs]


def _matters(rest: Gradients, whole: Gradients) -> bool:
    """Whether the rest of any layer's gradient is more than rounding errors."""
    for name, grads in rest.items():
        left = [grad for grad in grads if grad is not None]
        full = [grad for grad in whole[name] if grad is not None]
        if left and bool(joint_norm(left) > _ROUNDING * joint_norm(full)):
            return True
    return False
