"""Rows and classes of an output that were picked or moved between the model and the loss.

``output[mask]``, ``output.chunk(2)`` or ``output[:, classes]`` leave nodes in the graph that say
which. The heads' logits are picked from alike, so that samples meet their own targets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import Tensor

__all__ = ["picks_behind"]

_UNKNOWN = (
    "rows or classes of the output were picked or moved between the model and the loss, by "
    "'{}', in a way that cannot be followed to the heads' logits. Give the loss the output as the "
    "model gave it, and pick in the criterion: ShortcutLoss(model, lambda logits, target: "
    "criterion(logits[target[0]], target[1]))(output, (mask, target))."
)
_MAX = 2**63
_Shape = tuple[int, ...]
_Link = tuple[Any, int, _Shape, _Shape]


def picks_behind(
    output: Tensor, passed: Collection[Any], rows: Collection[int]
) -> tuple[int, Callable[[Tensor], Tensor]]:
    """How rows and classes of an output came from those that the model gave.

    Args:
        output: What the loss is given.
        passed: All nodes between it and the model's outputs, these included.
        rows: How many rows the model may have given.

    Returns:
        The number of rows before, and what picks alike from heads' logits ``[..., N, K]``.

    Raises:
        RuntimeError: If it cannot be told.
    """
    picks = [node for node in passed if node.name().partition("Backward")[0] in _PICKS]
    if not picks:
        return output.shape[-2], lambda logits: logits
    found: list[Callable[[Tensor], Tensor]] = []
    samples, sizes = output.shape[-2], rows
    for node, branch, before, after in reversed(_chain(output, passed)):
        if node not in picks:
            continue
        picks.remove(node)
        pick = _read(node, branch, before, sizes)
        if pick is not None:
            axis = _batch_axis(before, sizes)
            samples = samples if found else before[axis]
            sizes = {after[axis]}
            found.append(pick)
    for node in picks:  # in one of several parts of the output
        shape = getattr(node, "_saved_self_sym_sizes", None)
        if shape is None or _read(node, 0, tuple(shape), rows) is not None:
            raise RuntimeError(_UNKNOWN.format(node.name()))

    def apply(logits: Tensor) -> Tensor:
        for pick in found:
            logits = pick(logits)
        return logits

    return samples, apply


def _chain(output: Tensor, passed: Collection[Any]) -> list[_Link]:
    """Nodes behind an output up to where it has several parts: with branch, shape before, after."""
    found = []
    node: Any = output.grad_fn
    branch, after = output.output_nr, tuple(output.shape)
    while node in passed:
        before = _shape_before(node, after)
        found.append((node, branch, before, after))
        nexts = [(n, i) for n, i in node.next_functions if n is not None and n.next_functions]
        (node, branch), after = nexts[0] if len(nexts) == 1 else (None, 0), before
    return found


def _shape_before(node: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    if node.name().startswith("Unbind"):  # which keeps no sizes; that of its axis does not matter
        axis = _signed(node._saved_dim) % (len(shape) + 1)
        return (*shape[:axis], 0, *shape[axis:])
    return tuple(getattr(node, "_saved_self_sym_sizes", shape))


def _batch_axis(shape: Sequence[int], rows: Collection[int]) -> int:
    """The axis of the batch: in ``[A, B, K]`` the one of its size, else B."""
    return 0 if len(shape) == 2 or (shape[1] not in rows and shape[0] in rows) else 1


def _read(
    node: Any, branch: int, shape: tuple[int, ...], rows: Collection[int]
) -> Callable[[Tensor], Tensor] | None:
    """What a node does to rows or classes; ``None`` if it leaves both as they are."""
    if len(shape) not in (2, 3) or shape[_batch_axis(shape, rows)] not in rows:
        return None
    places = {_batch_axis(shape, rows): -2, len(shape) - 1: -1}
    read = _PICKS[node.name().partition("Backward")[0]]
    return read(node, branch, shape, places)


def _axis(dim: int, shape: Sequence[int]) -> int:
    return _signed(dim) % len(shape)


def _signed(value: int) -> int:
    """Nodes keep negative numbers as unsigned ones."""
    return value - 2 * _MAX if value >= _MAX else value


def _slice(node: Any, _: int, shape: Any, places: Any) -> Callable[[Tensor], Tensor] | None:
    axis = _axis(node._saved_dim, shape)
    part = slice(_signed(node._saved_start), _signed(node._saved_end), node._saved_step)
    if axis not in places or part.indices(shape[axis]) == (0, shape[axis], 1):
        return None
    at = [part] + [slice(None)] * (-1 - places[axis])
    return lambda logits: logits[(..., *at)]


def _split(node: Any, branch: int, shape: Any, places: Any) -> Callable[[Tensor], Tensor] | None:
    axis = _axis(node._saved_dim, shape)
    sizes = getattr(node, "_saved_split_sizes", None) or node._saved_split_size
    if axis not in places:
        return None
    place = places[axis]
    return lambda logits: logits.split(sizes, place)[branch]


def _index_select(node: Any, _: int, shape: Any, places: Any) -> Callable[[Tensor], Tensor] | None:
    axis, index = _axis(node._saved_dim, shape), node._saved_index
    if axis not in places:
        return None
    return lambda logits: logits.index_select(places[axis], index)


def _index(node: Any, _: int, shape: Any, places: Any) -> Callable[[Tensor], Tensor] | None:
    given = [(axis, index) for axis, index in enumerate(node._saved_indices) if index is not None]
    if not any(axis in places for axis, _ in given):
        return None
    if len(given) > 1 or given[0][1].ndim != 1:
        raise RuntimeError(_UNKNOWN.format(node.name()))
    axis, index = given[0]  # numbers, or a mask
    at = [index] + [slice(None)] * (-1 - places[axis])
    return lambda logits: logits[(..., *at)]


def _flip(node: Any, _: int, shape: Any, places: Any) -> Callable[[Tensor], Tensor] | None:
    axes = [_axis(dim, shape) for dim in node._saved_dims]
    dims = [places[axis] for axis in axes if axis in places]
    return (lambda logits: logits.flip(dims)) if dims else None


def _roll(node: Any, _: int, shape: Any, places: Any) -> Callable[[Tensor], Tensor] | None:
    axes = [_axis(dim, shape) for dim in node._saved_dims]
    moves = [
        (_signed(by), places[axis])
        for by, axis in zip(node._saved_shifts, axes, strict=False)
        if axis in places
    ]
    if not axes:  # over all of them as one
        raise RuntimeError(_UNKNOWN.format(node.name()))
    if not moves:
        return None
    return lambda logits: logits.roll([by for by, _ in moves], [place for _, place in moves])


def _refuse(node: Any, _: int, shape: Any, places: Any) -> Callable[[Tensor], Tensor] | None:
    if _axis(node._saved_dim, shape) in places:
        raise RuntimeError(_UNKNOWN.format(node.name()))
    return None


_PICKS: dict[str, Callable[[Any, int, Any, Any], Callable[[Tensor], Tensor] | None]] = {
    "Slice": _slice,
    "Split": _split,
    "SplitWithSizes": _split,
    "Index": _index,
    "IndexSelect": _index_select,
    "Flip": _flip,
    "Roll": _roll,
    "Select": _refuse,
    "Gather": _refuse,
    "Sort": _refuse,
    "Topk": _refuse,
}
