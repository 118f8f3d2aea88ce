"""Bring many small tensors from a device at once."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import Tensor

__all__ = ["Fetcher"]


class Fetcher:
    """Collects small tensors and brings them to the CPU together, one transfer a device.

    Example:
        >>> fetcher, tensor = Fetcher(), torch.tensor([1.0, 2.0])
        >>> fetcher.add(tensor)
        >>> fetcher.fetch()
        >>> fetcher.values(tensor)
        [1.0, 2.0]
    """

    def __init__(self) -> None:
        self._tensors: dict[int, Tensor] = {}
        self._values: dict[int, list[float]] = {}

    def add(self, tensor: Tensor | None) -> None:
        """Ask for a tensor."""
        if tensor is not None:
            self._tensors[id(tensor)] = tensor

    def fetch(self) -> None:
        """Bring what was asked for."""
        kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
        for tensor in self._tensors.values():
            kinds[tensor.device, tensor.dtype].append(tensor)
        for tensors in kinds.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).tolist()
            for tensor in tensors:
                self._values[id(tensor)] = flat[: tensor.numel()]
                del flat[: tensor.numel()]

    def values(self, tensor: Tensor | None) -> list[float]:
        """All values of a tensor that was fetched; empty for ``None``."""
        return [] if tensor is None else self._values[id(tensor)]

    def value(self, tensor: Tensor | None) -> float:
        """The value of a scalar that was fetched; NaN for ``None``."""
        return math.nan if tensor is None else self._values[id(tensor)][0]
