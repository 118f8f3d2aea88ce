"""The tensors in what a module returns: alone, or in tuples, lists, dicts and dataclasses."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils import _pytree

__all__ = ["first_tensor", "map_tensors", "tensors_in"]


def map_tensors(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a nest in which every tensor is replaced, in order.

    Args:
        output: A tensor, or tuples, lists, dicts and dataclasses of such. Dicts of a class of
            their own, as libraries return them, are known where PyTorch's pytree knows them.
        change: What becomes of each tensor.

    Example:
        >>> import torch
        >>> map_tensors({"logits": torch.ones(1), "name": "x"}, lambda t: 2 * t)
        {'logits': tensor([2.]), 'name': 'x'}
    """
    if isinstance(output, Tensor):
        return change(output)
    if dataclasses.is_dataclass(output) and not isinstance(output, (type, dict)):
        return _map_fields(output, change)
    leaves, tree = _pytree.tree_flatten(output, is_leaf=_is_dataclass)
    if len(leaves) == 1 and leaves[0] is output:
        return output  # neither a tensor nor anything that can be looked into
    return _pytree.tree_unflatten([map_tensors(leaf, change) for leaf in leaves], tree)


def tensors_in(output: Any) -> list[Tensor]:
    """All tensors in a nest, in order.

    Example:
        >>> import torch
        >>> [tuple(t.shape) for t in tensors_in((torch.ones(1), [None, torch.ones(2)]))]
        [(1,), (2,)]
    """
    if isinstance(output, Tensor):
        return [output]
    # What is given at every step: PyTorch's pytree takes some fifty calls of Python for it.
    if type(output) in (tuple, list):
        return [tensor for one in output for tensor in tensors_in(one)]
    if type(output) is dict:
        return [tensor for one in output.values() for tensor in tensors_in(one)]
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(output, note)
    return found


def first_tensor(output: Any) -> Tensor | None:
    """The first tensor in a nest; ``None`` without any."""
    if isinstance(output, Tensor):
        return output
    return next(iter(tensors_in(output)), None)


def _is_dataclass(thing: Any) -> bool:
    return dataclasses.is_dataclass(thing) and not isinstance(thing, (type, dict))


def _map_fields(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    replaced = copy.copy(output)  # which runs no __init__ and no __post_init__
    for field in dataclasses.fields(output):
        value = getattr(output, field.name, None)
        mapped = map_tensors(value, change)
        if mapped is not value:
            object.__setattr__(replaced, field.name, mapped)  # also in a frozen one
    return replaced
