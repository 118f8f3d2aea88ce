"""Let checkpoints keep what they would compute again in the backward pass."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils import checkpoint as module

__all__ = ["without_recomputing"]

# What torch.utils.checkpoint works with, by the names that versions of PyTorch have for it.
_GENERATORS = (
    "_checkpoint_without_reentrant_generator_impl",
    "_checkpoint_without_reentrant_generator",
)
_FUNCTION = "CheckpointFunction"

_lock = threading.Lock()
_threads: list[int] = []
_originals: dict[str, Any] = {}


@contextmanager
def without_recomputing() -> Iterator[None]:
    """Inside, ``torch.utils.checkpoint`` runs its function as it is, in this thread.

    A look takes many gradients through one graph, each of which would run every checkpointed part
    once more. Where a version of PyTorch has other names inside, all goes on as usual.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from torch.utils.checkpoint import checkpoint
        >>> layer = nn.Linear(2, 2)
        >>> count = layer.register_forward_hook(lambda *args: print("runs"))
        >>> with without_recomputing():
        ...     y = checkpoint(layer, torch.rand(1, 2), use_reentrant=False)
        runs
        >>> y.sum().backward()
    """
    thread = threading.get_ident()
    with _lock:
        if not _threads:
            _install()
        _threads.append(thread)
    try:
        yield
    finally:
        with _lock:
            _threads.remove(thread)
            if not _threads:
                vars(module).update(_originals)


def _install() -> None:
    for name in (*_GENERATORS, _FUNCTION):
        if hasattr(module, name):
            _originals[name] = getattr(module, name)
    for name in _GENERATORS:
        if name in _originals:
            setattr(module, name, _generator(_originals[name]))
    if _FUNCTION in _originals:
        setattr(module, _FUNCTION, _Function)


def _is_mine() -> bool:
    return threading.get_ident() in _threads


def _generator(original: Any) -> Any:
    def before_and_after(*args: Any, **kwargs: Any) -> Any:
        return _nothing() if _is_mine() else original(*args, **kwargs)

    return before_and_after


def _nothing() -> Iterator[None]:
    """Nothing to do before the function runs, nor after."""
    yield


class _Function:
    """Stands for the autograd function of the reentrant kind."""

    @staticmethod
    def apply(function: Any, preserve: bool, *args: Any) -> Any:
        if _is_mine():
            return function(*args)
        return _originals[_FUNCTION].apply(function, preserve, *args)
