"""Count what a product of tensors costs where one side is spikes, for either generation.

A product is a matrix product or a convolution. One of spikes needs an accumulate for each weight
that a spike meets, any other a multiply-accumulate for each pair of entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["PRODUCTS", "dense_operations", "is_binary", "spike_operations"]

_aten = torch.ops.aten
# Operator -> where its two factors are among its arguments.
PRODUCTS: dict[Any, tuple[int, int]] = {
    _aten.mm.default: (0, 1),
    _aten.addmm.default: (1, 2),
    _aten.bmm.default: (0, 1),
    _aten.baddbmm.default: (1, 2),
    _aten.convolution.default: (0, 1),
}


def is_binary(x: Tensor) -> bool:
    """Whether a tensor holds nothing but 0 and 1.

    Example:
        >>> is_binary(torch.tensor([0.0, 1.0])), is_binary(torch.tensor([0.0, 2.0]))
        (True, False)
    """
    return x.dtype == torch.bool or bool((x == x.ne(0)).all())


def dense_operations(operator: Any, args: Sequence[Any], output: Tensor) -> int:
    """Multiply-accumulates of a product of which neither side is spikes.

    Args:
        operator: One of :data:`PRODUCTS`, as a ``TorchDispatchMode`` sees it.
        args: What it was called with.
        output: What it returned.

    Example:
        >>> x, y = torch.rand(2, 3), torch.rand(3, 5)
        >>> dense_operations(torch.ops.aten.mm.default, (x, y), x @ y)
        30
    """
    left, right = (args[place] for place in PRODUCTS[operator])
    if operator is not _aten.convolution.default:
        return int(left.numel() * right.shape[-1])
    places = left if args[6] else output  # a transposed one has a kernel at each place of its input
    return int(right.numel() * places.shape[0] * math.prod(places.shape[2:]))


@torch.no_grad()
def spike_operations(operator: Any, args: Sequence[Any], output: Tensor) -> int | None:
    """Accumulates of a product of which a side is spikes.

    Args:
        operator: One of :data:`PRODUCTS`, as a ``TorchDispatchMode`` sees it.
        args: What it was called with.
        output: What it returned.

    Returns:
        For each spike the weights that it meets, padding left out. Where both sides are spikes,
        the pairs that meet; ``None`` where neither is.

    Example:
        >>> x, y = torch.eye(3)[:2], torch.rand(3, 5)
        >>> spike_operations(torch.ops.aten.mm.default, (x, y), x @ y)
        10
    """
    left, right = (args[place] for place in PRODUCTS[operator])
    spikes = is_binary(left), is_binary(right)
    if not any(spikes):
        return None
    of_maps = operator is _aten.convolution.default
    count = _convolved if of_maps else _multiplied
    return int(count(left, right, spikes, args, output))


def _multiplied(
    left: Tensor, right: Tensor, spikes: tuple[bool, bool], args: Sequence[Any], output: Tensor
) -> float:
    if spikes == (True, True):
        return float((left.double().sum(-2) * right.double().sum(-1)).sum())
    if spikes[0]:
        return float(torch.count_nonzero(left)) * right.shape[-1]
    return float(torch.count_nonzero(right)) * left.shape[-2]


def _convolved(
    x: Tensor, weight: Tensor, spikes: tuple[bool, bool], args: Sequence[Any], output: Tensor
) -> float:
    stride, padding, dilation, transposed, _, groups = args[3:9]
    if spikes == (True, True):
        return float(_aten.convolution.default(x.double(), weight.double(), None, *args[3:9]).sum())
    if spikes[1]:
        places = x if transposed else output
        return float(torch.count_nonzero(weight)) * places.shape[0] * math.prod(places.shape[2:])
    met = x.ne(0).sum((0, 1), dtype=torch.float64)  # spikes at each position
    meets = _meets_transposed if transposed else _meets
    for axis, kernel in enumerate(weight.shape[2:]):
        how = (stride[axis], padding[axis], dilation[axis], kernel)
        each = meets(x.shape[2 + axis], output.shape[2 + axis], *how)
        # Sizes along an axis have nothing to do with those along another: sum axis by axis.
        met = torch.tensordot(each.to(met), met, dims=([0], [0]))
    channels = weight.shape[1] if transposed else weight.shape[0] // groups
    return float(met) * channels


_Meets = Callable[[int, int, int, int, int, int], Tensor]


def _meets(size: int, out: int, stride: int, padding: int, dilation: int, kernel: int) -> Tensor:
    """For each place of an input along an axis, how many places of the kernel come across it."""
    at = torch.arange(out)[:, None] * stride - padding + torch.arange(kernel) * dilation
    inside = at[(at >= 0) & (at < size)]
    return torch.bincount(inside, minlength=size)


def _meets_transposed(
    size: int, out: int, stride: int, padding: int, dilation: int, kernel: int
) -> Tensor:
    """The same where the kernel lies on the output."""
    at = torch.arange(size)[:, None] * stride - padding + torch.arange(kernel) * dilation
    return ((at >= 0) & (at < out)).sum(1)
