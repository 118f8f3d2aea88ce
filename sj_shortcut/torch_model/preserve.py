"""Let a model run, and have it afterwards as if it had not."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import base
from torch import Tensor, nn


@contextmanager
def preserved(*modules: nn.Module) -> Iterator[None]:
    """Run modules freely inside; training flags, buffers, neuron states, hooks and RNG come back.

    Buffers are swapped for copies while it lasts, not restored in place, so that a graph that
    holds them can still run backward. Every plain attribute of every module comes back as well,
    which covers what neurons and heads keep outside their memories. Parameters are not copied:
    do not train inside.

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
    saved = [_Saved(module) for module in kept.values()]
    copies: dict[int, Tensor] = {}
    # Twice, so that an interrupt of the one is made good by the other.
    try:
        try:
            for state in saved:
                state.lend_copies(copies)
            with untouched_rng():
                yield
        finally:
            _restore(saved)
    except BaseException:
        _restore(saved)
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


def reset_states(model: nn.Module) -> None:
    """Give every neuron and head a fresh memory, leaving the old tensors alone.

    ``functional.reset_net`` may write into tensors that a memory holds; inside :func:`preserved`
    they belong to the user. So the memories get new values first, and only then ``reset()`` runs.
    """
    for module in model.modules():
        if isinstance(module, base.MemoryModule):
            module._memories.update(copy.deepcopy(module._memories_rv))
        reset = getattr(module, "reset", None)
        if callable(reset):
            reset()


class _Saved:
    """What one module holds by name: the objects themselves, none copied."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.attributes = dict(module.__dict__)
        self.tables: list[tuple[dict[str, Any], dict[str, Any]]] = [
            (table, dict(table))
            for name, table in self.attributes.items()
            if name in ("_buffers", "_memories", "_memories_rv") or "_hooks" in name
            if isinstance(table, dict)
        ]

    def lend_copies(self, copies: dict[int, Tensor]) -> None:
        for name, buffer in self.module._buffers.items():
            if buffer is not None:
                if id(buffer) not in copies:
                    copies[id(buffer)] = buffer.clone()
                self.module._buffers[name] = copies[id(buffer)]

    def restore(self) -> None:
        for table, content in self.tables:
            _put_back(table, content)
        _put_back(self.module.__dict__, self.attributes)


def _put_back(table: dict[str, Any], content: dict[str, Any]) -> None:
    # Never empty in between: another thread may use it, as all neurons share a surrogate function.
    for name in table.keys() - content.keys():
        del table[name]
    table.update(content)


def _restore(saved: list[_Saved]) -> None:
    for state in saved:
        state.restore()
