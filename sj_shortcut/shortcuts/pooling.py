"""Averages over time and space, with the fewest passes over the features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["average", "cells"]


def cells(x: Tensor, first: int, grid: int, time: Sequence[int]) -> Tensor:
    """Averages over time and parts of space, which begins at axis ``first``: ``[N, C * parts]``."""
    space = x.ndim - first
    if space == 0:  # a map of one pixel is all parts alike
        x = average(x, time)
        return x.unsqueeze(-1).expand(*x.shape, grid * grid).flatten(-2)
    if space == 1:  # as many parts, side by side
        parts = nn.functional.adaptive_avg_pool1d(x.flatten(0, first - 2), grid * grid)
        return average(parts.reshape(*x.shape[: first - 1], -1), time)
    x = average(x, range(first, x.ndim - 2))
    height, width = x.shape[-2:]
    if height % grid or width % grid:
        parts = nn.functional.adaptive_avg_pool2d(x.flatten(0, first - 2), grid)
        return average(parts.reshape(*x.shape[: first - 1], -1), time)
    # Time first: the gradient of parts of space is no view, and so is written once for all steps.
    # Rows before columns, as sums along what lies side by side in memory are quick.
    total = x.sum(tuple(time), dtype=_wide(x)) if time else x
    rows = total.unflatten(-2, (grid, -1)).sum(-2, dtype=_wide(x))
    parts = rows.unflatten(-1, (grid, -1)).sum(-1)
    count = (x.shape[0] if time else 1) * (height // grid) * (width // grid)
    averages: Tensor = (parts / count).to(x.dtype)
    return averages.flatten(-3)


def average(x: Tensor, *axes: Sequence[int]) -> Tensor:
    """Mean over ``axes``, one group after the other, as sums scaled in the end.

    The backward pass of a sum is a view; that of a mean writes a tensor of the size of ``x``.
    """
    total, count = x, 1
    for group in axes:
        if group:  # a sum over no axis would be one over all
            for axis in group:
                count *= total.shape[axis]
            total = total.sum(tuple(group), dtype=_wide(x))
    return x if total is x else (total / count).to(x.dtype)


def _wide(x: Tensor) -> torch.dtype | None:
    """The dtype to sum in: in half precision a sum over a large map overflows."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else None
