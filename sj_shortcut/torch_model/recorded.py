"""Whether code runs to be recorded and run again without Python: compiled, or in a CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["is_captured", "is_recorded"]


def is_captured(tensor: Tensor) -> bool:
    """Whether a CUDA graph is being captured from what is computed with a tensor.

    Args:
        tensor: Any tensor of the computation.

    Example:
        >>> is_captured(torch.zeros(1))
        False
    """
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def is_recorded(tensor: Tensor) -> bool:
    """Whether it is captured, or compiled: numbers that Python knows now would stay in it for ever.

    Args:
        tensor: Any tensor of the computation.

    Example:
        >>> is_recorded(torch.zeros(1))
        False
    """
    return torch.compiler.is_compiling() or is_captured(tensor)
