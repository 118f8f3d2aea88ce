"""Whether code runs inside a backward pass, as hooks do that a checkpoint runs again."""

from __future__ import annotations

import torch

__all__ = ["NO_BACKWARD", "backward_task", "in_backward"]

NO_BACKWARD = -1


def backward_task() -> int:
    """Number of the backward pass that is running in this thread, ``NO_BACKWARD`` if none.

    Compiled code cannot ask: use :func:`in_backward` where ``torch.compile`` may come by.
    """
    return torch._C._current_graph_task_id()


def in_backward() -> bool:
    """Whether a backward pass is running in this thread; False while code is being compiled.

    Example:
        >>> in_backward()
        False
        >>> x = torch.ones(1, requires_grad=True)
        >>> handle = x.register_hook(lambda grad: print(in_backward()))
        >>> x.sum().backward()
        True
    """
    if torch.compiler.is_compiling():
        return False
    return backward_task() != NO_BACKWARD
