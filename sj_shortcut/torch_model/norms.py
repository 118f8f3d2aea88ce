"""Norms of large tensors that are exact where gradients vanish, and quick on a CPU."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["joint_norm", "l2_norm", "wide_dtype"]

Axes = tuple[int, ...] | None

# Of more squares than this, PyTorch's sum in single precision on the CPU is off by over 3e-7.
_LONGEST_ROW = 16384
# Between these, no square that matters to a norm leaves the range of single precision.
_TINY, _HUGE = 1e-12, 1e15


def wide_dtype(x: Tensor) -> torch.dtype:
    """The most precise type to sum ``x`` in where it lies."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def l2_norm(x: Tensor, axes: Axes = None) -> Tensor:
    """L2 norm over ``axes`` (all by default), to 1e-6 and without underflow.

    In single precision the squares of a vanishing gradient underflow to 0, and PyTorch's sum of
    two million squares on the CPU is off by 4e-5. In double precision it takes the CPU eight times
    as long, so there short rows are summed in single precision as long as that is safe.

    Example:
        >>> l2_norm(torch.full((10, 10), 1e-30)).item() > 9e-30
        True
    """
    x = x.detach()
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.ndim > 1:
        norm = _norm_by_rows(x, axes)
        ends = (norm,) if axes is None else norm.aminmax()
        low, high = ends[0].item(), ends[-1].item()
        if _TINY < low and high < _HUGE:
            return norm
    return _norm(x, axes, wide_dtype(x))


def joint_norm(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norm of several tensors taken as one vector."""
    norms = [l2_norm(tensor) for tensor in tensors]
    return norms[0] if len(norms) == 1 else l2_norm(torch.stack(norms))


def _norm_by_rows(x: Tensor, axes: Axes) -> Tensor:
    """Rows of the last axes in single precision, and of their norms the norm in double."""
    first = 1
    while math.prod(x.shape[first:]) > _LONGEST_ROW:
        first += 1
    if first == x.ndim:
        return _norm(x, axes, torch.float64)
    rows = _norm(x, tuple(range(first, x.ndim)), None)
    left = None if axes is None else tuple(axis for axis in axes if axis < first)
    return rows.double() if left == () else _norm(rows, left, torch.float64)


def _norm(x: Tensor, axes: Axes, dtype: torch.dtype | None) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, 2, axes, dtype=dtype)
    return norm
