"""Small networks that several tests train."""

import functools
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

T, N, CLASSES = 2, 3, 4


class Fire(neuron.IFNode):
    """A neuron without memory, as SpikingJelly's PSN family: spikes where its input is high."""

    def forward(self, x: Tensor) -> Tensor:
        return self.surrogate_function(x - self.v_threshold)


def stage(inputs: int, outputs: int, spikes: type[nn.Module] = neuron.LIFNode) -> nn.Sequential:
    return nn.Sequential(layer.Linear(inputs, outputs), spikes(v_threshold=0.1))


class Net(nn.Module):
    """Three stages and a classifier; wrapped, it has heads at ``layer1.1`` and ``layer2.1``."""

    spikes: type[nn.Module] = neuron.LIFNode

    def __init__(self, step_mode: str = "m") -> None:
        super().__init__()
        self.layer1 = stage(8, 16, self.spikes)
        self.layer2 = stage(16, 12, self.spikes)
        self.layer3 = stage(12, 6, self.spikes)
        self.fc = layer.Linear(6, CLASSES)
        functional.set_step_mode(self, step_mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(x))))


class StatelessNet(Net):
    """Keeps nothing from one forward to the next, so that it can go without ``reset_net``."""

    spikes = Fire


def images(batch: int = N) -> Tensor:
    """A batch ``[T, N, 8]``."""
    return 4 * torch.rand(T, batch, 8)


def labels(batch: int = N) -> Tensor:
    return torch.arange(batch) % CLASSES


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {
        name: None if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two :func:`gradients` or state dicts are bitwise equal, ``None`` only to ``None``."""
    return a.keys() == b.keys() and all(_equal(value, b[name]) for name, value in a.items())


def _equal(a: Any, b: Any) -> bool:
    """Tensors bitwise; the state of a loss's schedule, and ``None``, as such."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and not isinstance(a, Tensor) and a == b


@functools.cache
def _neurons_compile() -> bool:
    try:
        torch.compile(stage(1, 1), backend="eager")(torch.zeros(1, 1))
    except torch._dynamo.exc.InternalTorchDynamoError:
        return False
    return True


def skip_unless_neurons_compile() -> None:
    """PyTorch 2.6 cannot compile torch.jit's functions, which 0.0.0.0.14's LIF neurons call.

    Nor can it export layers of 0.0.0.0.14.
    """
    if not _neurons_compile():
        pytest.skip("this PyTorch cannot compile or export these layers, with heads or without")
