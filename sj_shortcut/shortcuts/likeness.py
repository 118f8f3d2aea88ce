"""Make branches like the parts of the model that they sit on: device, dtype, training flag."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sj_shortcut.neurons import is_spiking_neuron

__all__ = ["Likeness"]


class Likeness:
    """Finds, for each module of a model, the last floating-point tensor defined up to its end.

    What sits inside spiking layers does not count: these share one default surrogate function, on
    which other tools leave buffers of their own.

    Args:
        root: The model, walked through once.
        neuron_types: Spiking neuron classes of the user's.
    """

    def __init__(self, root: nn.Module, neuron_types: tuple[type, ...] = ()) -> None:
        self._root = root
        self._latest: dict[str, Tensor] = {}
        self._last: Tensor | None = None
        self._first: Tensor | None = None
        self._neuron_types = neuron_types
        self._visit(root, "")

    def apply(self, branch: nn.Module, name: str) -> None:
        """Give a branch the device, dtype and training mode of the module of that name."""
        like = self._latest.get(name, self._first)
        if like is None:
            like = torch.empty(0)
        branch.to(device=like.device, dtype=like.dtype)
        branch.train(self._root.get_submodule(name).training)

    def _visit(self, module: nn.Module, name: str) -> None:
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                self._last = tensor
                self._first = tensor if self._first is None else self._first
                break
        if not is_spiking_neuron(module, self._neuron_types):
            for key, child in module.named_children():
                self._visit(child, f"{name}.{key}".lstrip("."))
        if self._last is not None:
            self._latest[name] = self._last
