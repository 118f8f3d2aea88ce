"""Average a point's features and hand them on to the network, as one step of the graph.

Features have two readers, the network and the head. Left to autograd, the head's part of their
gradient is written out at the size of the features and then added to the network's. Here both meet
in one node, which adds the small gradient of the averages to the large one as it is broadcast: one
kernel forward, one backward, and half of the memory traffic.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sj_shortcut.shortcuts.pooling import average, cells

__all__ = ["averages", "averages_and_features"]

# From this many elements on arithmetic outweighs the launch of kernels, and on a CPU sums along
# what lies side by side in memory are quicker than one pass over all axes.
_MANY = 1 << 18


def averages_and_features(
    x: Tensor, grid: int, with_time: bool, per_step: bool
) -> tuple[Tensor, Tensor]:
    """Averages of features, and the features for the network to go on with.

    The features handed on are the same memory, with the version counter of ``x``, so that writing
    over them is noticed as ever.

    Args:
        x: ``[T, N, C, ...]`` with time, else ``[N, C, ...]``.
        grid: Parts along height and along width.
        with_time: Whether ``x`` has a time axis.
        per_step: Whether to keep time steps apart.

    Returns:
        ``[N, C * parts]``, per step ``[T, N, C * parts]``; and ``x`` or what stands for it.
    """
    first = 3 if with_time else 2
    parts = [_parts(side, grid) for side in x.shape[first:]]
    time = (0,) if with_time and not per_step else ()
    if grid == 1:
        split, axes = x.shape, (*time, *range(first, x.ndim))
    elif len(parts) == 2 and all(parts):
        apart = [(part, side // part) for part, side in zip(parts, x.shape[first:], strict=True)]
        split = torch.Size((*x.shape[:first], *apart[0], *apart[1]))
        axes = (*time, first + 1, first + 3)
    else:
        return averages(x, grid, with_time, per_step), x
    if not axes or not x.requires_grad:
        return averages(x, grid, with_time, per_step), x
    both: tuple[Tensor, Tensor] = _HandOn.apply(x, split, axes, (grid, with_time, per_step))
    return both


def _parts(side: int, grid: int) -> int:
    """How many different parts a side of the map has; 0 where they would overlap.

    A side shorter than the grid has its positions, each as often as it takes.
    """
    if side % grid == 0:
        return grid
    return side if grid % side == 0 else 0


def averages(x: Tensor, grid: int, with_time: bool, per_step: bool) -> Tensor:
    """The averages alone, by operations that autograd knows; see above."""
    first = 3 if with_time else 2
    time = (0,) if with_time and not per_step else ()
    if grid == 1:
        found = average(x, range(first, x.ndim), time)
        # A tensor of its own, so that its gradient is that of the head alone.
        return x.view_as(x) if found is x else found
    if with_time and per_step:  # each step is a batch of its own
        each: Tensor = cells(x.flatten(0, 1), 2, grid, ()).unflatten(0, x.shape[:2])
        return each
    return cells(x, first, grid, time)


class _HandOn(torch.autograd.Function):
    """The mean of ``x`` over some axes of the shape ``split``, and ``x`` itself."""

    @staticmethod
    def forward(  # with a setup_context a call would cost a hundred calls of Python more
        ctx: Any, x: Tensor, split: torch.Size, axes: tuple[int, ...], how: tuple[int, bool, bool]
    ) -> tuple[Tensor, Tensor]:
        grid, with_time, per_step = how
        ctx.split, ctx.axes, ctx.shape, ctx.grid = split, axes, x.shape, grid
        ctx.often = grid > 1 and (split[-4], split[-2]) != (grid, grid)
        ctx.set_materialize_grads(False)
        if x.is_cpu and x.numel() >= _MANY:
            found = averages(x, grid, with_time, per_step)
        else:
            found = x.view(split).mean(axes)
            if ctx.often:
                found = _often(found, grid)
            found = found.flatten(2 if with_time and per_step else 1)
        # Detached rather than a view: views from a function like this cannot be written to, not
        # even by a user who does so where no head has seen them.
        return found, x.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        heads, network = grads
        if heads is None:
            return network, None, None, None
        kept = [1 if axis in ctx.axes else size for axis, size in enumerate(ctx.split)]
        if ctx.often:  # parts that are the same position
            times = [ctx.grid // kept[-4], ctx.grid // kept[-2]]
            heads = heads.reshape(-1, kept[-4], times[0], kept[-2], times[1]).sum((2, 4))
        heads = heads.reshape(kept)
        count = math.prod(ctx.shape) // math.prod(kept)
        if network is None:
            both = (heads / count).expand(ctx.split)
        else:
            both = torch.add(network.view(ctx.split), heads, alpha=1 / count)
        return both.reshape(ctx.shape), None, None, None


def _often(parts: Tensor, grid: int) -> Tensor:
    """``[..., h, w]`` with each part as often as makes ``[..., grid, grid]`` of them."""
    height, width = parts.shape[-2:]
    each = parts[..., :, None, :, None]
    lead = parts.shape[:-2]
    return each.expand(*lead, height, grid // height, width, grid // width).reshape(
        *lead, grid, grid
    )
