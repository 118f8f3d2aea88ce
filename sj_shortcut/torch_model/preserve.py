"""Let a model run, and have it afterwards as if it had not."""

from __future__ import annotations

import operator
import random
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin

__all__ = ["preserved", "untouched_rng"]

_CONTAINERS = (list, dict, set, deque, tuple)


@contextmanager
def preserved(*modules: nn.Module) -> Iterator[None]:
    """Run modules freely inside; training flags, buffers, neuron states, hooks and RNG come back.

    Buffers are swapped for copies while it lasts, not restored in place, so that a graph that
    holds them can still run backward. Every plain attribute of every module comes back as well,
    which covers what neurons and heads keep outside their memories. So does the content of lists,
    dicts, sets and deques among them, at any depth; these stay the same objects. Parameters, and
    tensors that are neither parameters nor buffers, are not copied: do not train inside.

    Args:
        modules: The modules with everything inside them; those in several are kept once.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> norm = nn.BatchNorm1d(2)
        >>> with preserved(norm):
        ...     _ = norm(torch.rand(3, 2))
        >>> norm.num_batches_tracked.item()
        0
    """
    kept = {id(module): module for root in modules for module in root.modules()}
    saved = _Saved(kept.values())
    # Twice, so that an interrupt of the one is made good by the other.
    try:
        try:
            saved.lend_copies()
            with untouched_rng():
                yield
        finally:
            saved.restore()
    except BaseException:
        saved.restore()
        raise


@contextmanager
def untouched_rng() -> Iterator[None]:
    """Put random number generators back: Python's, NumPy's, and torch's on every device in use.

    Some of SpikingJelly's modules draw their weights from NumPy.
    """
    cuda_in_use = torch.cuda.is_available() and torch.cuda.is_initialized()
    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    of_cuda = torch.cuda.get_rng_state_all() if cuda_in_use else []

    def restore() -> None:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
        if of_cuda:
            torch.cuda.set_rng_state_all(of_cuda)

    # Twice, so that an interrupt of the one is made good by the other.
    try:
        try:
            yield
        finally:
            restore()
    except BaseException:
        restore()
        raise


class _Saved:
    """What modules and the containers in them hold: the objects themselves, none copied."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = list(modules)
        self.attributes = [dict(module.__dict__) for module in self.modules]
        self.contents = list(_contents(self.attributes))

    def lend_copies(self) -> None:
        """Put copies of all buffers in their place."""
        copies: dict[int, Tensor] = {}
        for module in self.modules:
            for name, buffer in module._buffers.items():
                if buffer is not None and not isinstance(buffer, UninitializedTensorMixin):
                    if id(buffer) not in copies:
                        copies[id(buffer)] = buffer.clone()
                    module._buffers[name] = copies[id(buffer)]

    def restore(self) -> None:
        """Put everything back; doing so twice does no harm."""
        for container, content in self.contents:
            _put_back(container, content)
        for module, attributes in zip(self.modules, self.attributes, strict=True):
            _amend(module.__dict__, attributes)


def _contents(roots: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Every container in ``roots`` at any depth, once, and a shallow copy of its content.

    A module's buffers, memories, hooks and children are such containers as well.
    """
    known: set[int] = set()
    found = [value for root in roots for value in root.values()]
    while found:
        container = found.pop()
        if not isinstance(container, _CONTAINERS) or id(container) in known:
            continue
        known.add(id(container))
        is_dict = isinstance(container, dict)
        content = dict(container) if is_dict else list(container)
        found += content.values() if isinstance(content, dict) else content
        if not isinstance(container, tuple):
            yield container, content


def _put_back(container: Any, content: Any) -> None:
    """Give a container its content again, in order; nothing is written where nothing changed."""
    if _same(container, content):
        return
    if isinstance(container, dict):
        _amend(container, content)
        if _same(container, content):
            return
    if isinstance(container, list):
        container[:] = content
    else:
        container.clear()
        container.extend(content) if isinstance(container, deque) else container.update(content)


def _amend(table: dict[Any, Any], content: dict[Any, Any]) -> None:
    # Never empty in between: another thread may use it, as all neurons share a surrogate function.
    for name in [name for name in table if name not in content]:
        del table[name]
    table.update(content)


def _same(container: Any, content: Any) -> bool:
    """Whether a container still holds the very objects, in the same order."""
    now, then = (
        [*items, *items.values()] if isinstance(items, dict) else list(items)
        for items in (container, content)
    )
    return len(now) == len(then) and all(map(operator.is_, now, then))
