"""Let checkpoints keep what they would compute again in the backward pass."""

from __future__ import annotations

import threading
import weakref
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

_originals: dict[str, Any] = {}


class _Look:
    """Lives as long as a look: an interrupt anywhere ends it with the frame that holds it."""


_looks: weakref.WeakKeyDictionary[_Look, int] = weakref.WeakKeyDictionary()


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
    look = _Look()
    try:
        _install()
        _looks[look] = threading.get_ident()
        yield
    finally:
        _looks.pop(look, None)
        if not _looks:
            vars(module).update(_originals)


def _install() -> None:
    """Stand before what PyTorch has, which is gone on with wherever nobody looks."""
    for name in (*_GENERATORS, _FUNCTION):
        original = getattr(module, name, None)
        if original is None or getattr(original, "stands_for_another", False):
            continue
        _originals[name] = original
        setattr(module, name, _Function if name == _FUNCTION else _generator(original))


def _is_mine() -> bool:
    return threading.get_ident() in list(_looks.values())


def _generator(original: Any) -> Any:
    def before_and_after(*args: Any, **kwargs: Any) -> Any:
        return _nothing() if _is_mine() else original(*args, **kwargs)

    before_and_after.stands_for_another = True  # type: ignore[attr-defined]
    return before_and_after


def _nothing() -> Iterator[None]:
    """Nothing to do before the function runs, nor after."""
    yield


class _Function:
    """Stands for the autograd function of the reentrant kind."""

    stands_for_another = True

    @staticmethod
    def apply(function: Any, preserve: bool, *args: Any) -> Any:
        if _is_mine():
            return function(*args)
        return _originals[_FUNCTION].apply(function, preserve, *args)
