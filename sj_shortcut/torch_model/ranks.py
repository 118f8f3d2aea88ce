"""The processes of distributed training, or the one process there is."""

from __future__ import annotations

from typing import Any

from torch import distributed as dist

__all__ = ["gather_objects", "is_distributed", "rank", "world_size"]


def is_distributed() -> bool:
    """Whether ``torch.distributed`` is initialized.

    Example:
        >>> is_distributed(), rank(), world_size()
        (False, 0, 1)
    """
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, from 0; 0 where there is but one."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes; 1 where nothing is distributed."""
    return dist.get_world_size() if is_distributed() else 1


def gather_objects(own: Any) -> list[Any]:
    """What every process has, in the order of ranks; all of them must call this.

    Args:
        own: What this process has, which pickle must be able to carry.

    Returns:
        One entry a process. Where there is but one, ``[own]`` itself, not a copy.

    Example:
        >>> gather_objects({"batches": 3})
        [{'batches': 3}]
    """
    size = world_size()
    if size == 1:
        return [own]
    everyone: list[Any] = [None] * size
    dist.all_gather_object(everyone, own)
    return everyone
