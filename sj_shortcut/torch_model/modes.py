"""The modes that PyTorch keeps for a thread: whether it records gradients, and autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["modes_after_interrupts"]


@contextmanager
def modes_after_interrupts(device_type: str) -> Iterator[None]:
    """Put back what a context inside could not: an interrupt may come right where that ends.

    Autocast would then believe for the rest of the process that it is inside of another, keep the
    weights that it cast once, and train on them however they change.

    Args:
        device_type: Where autocast may be turned on or off inside, such as ``"cuda"``.
    """
    records = torch.is_grad_enabled()
    casts, depth = torch.is_autocast_enabled(device_type), _autocast_depth()
    try:
        yield
    except BaseException:
        torch.set_grad_enabled(records)
        torch.set_autocast_enabled(device_type, casts)
        while _autocast_depth() > depth:
            torch.autocast_decrement_nesting()
        if not depth:
            torch.clear_autocast_cache()
        raise


def _autocast_depth() -> int:
    """In how many autocasts this thread is."""
    depth = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return depth
