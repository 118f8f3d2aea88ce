"""Average a point's features and hand them on to the network, as one step of the graph.

Features have two readers, the network and the head. Left to autograd, the head's part of their
gradient is written out at the size of the features and then added to the network's. Here both meet
in one node, which adds the small gradient of the averages to the large one as it is broadcast: one
kernel forward, one backward, and half of the memory traffic.
"""

from __future__ import annotations

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
    space = x.shape[first:]
    time = (0,) if with_time and not per_step else ()
    if grid == 1:
        split, axes = x.shape, (*time, *range(first, x.ndim))
    elif len(space) == 2 and not (space[0] % grid or space[1] % grid):
        split = torch.Size((*x.shape[:first], grid, space[0] // grid, grid, space[1] // grid))
        axes = (*time, first + 1, first + 3)
    else:
        return averages(x, grid, with_time, per_step), x
    if not axes or not x.requires_grad:
        return averages(x, grid, with_time, per_step), x
    both: tuple[Tensor, Tensor] = _HandOn.apply(x, split, axes, (grid, with_time, per_step))
    return both


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
        ctx.split, ctx.axes, ctx.shape = split, axes, x.shape
        ctx.set_materialize_grads(False)
        grid, with_time, per_step = how
        if x.is_cpu and x.numel() >= _MANY:
            found = averages(x, grid, with_time, per_step)
        else:
            found = x.view(split).mean(axes)
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
        heads = heads.reshape(kept)
        count = ctx.shape.numel() // heads.numel()
        if network is None:
            both = (heads / count).expand(ctx.split)
        else:
            both = torch.add(network.view(ctx.split), heads, alpha=1 / count)
        return both.reshape(ctx.shape), None, None, None
