"""Spikes of a network, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

__all__ = ["firing_rates", "spikes_counted"]


def firing_rates(layers: list[dict[str, float]]) -> list[float]:
    """Spikes by place of each layer that `spikes_counted` counted."""
    return [each["spikes"] / each["places"] for each in layers]


@contextmanager
def spikes_counted(model: nn.Module) -> Iterator[list[dict[str, float]]]:
    """Count spikes of each layer, and places for them: neurons times time steps times images."""
    neurons = [module for module in model.modules() if isinstance(module, neuron.BaseNode)]
    counted = [{"spikes": 0.0, "places": 0.0} for _ in neurons]

    def count_in(layer: dict[str, float]) -> Callable[[nn.Module, object, Tensor], None]:
        def count(module: nn.Module, args: object, output: Tensor) -> None:
            layer["spikes"] += float(output.sum(dtype=torch.float32))
            layer["places"] += output.numel()

        return count

    handles = [
        module.register_forward_hook(count_in(layer))
        for module, layer in zip(neurons, counted, strict=True)
    ]
    try:
        yield counted
    finally:
        for handle in handles:
            handle.remove()
