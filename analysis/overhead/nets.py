"""The networks whose training step the study of costs measures, and one batch for each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import (
    parametric_lif_net,
    sew_resnet,
    spiking_resnet,
    spiking_vgg,
)
from torch import Tensor, nn

__all__ = ["Bench", "CLASSES", "MODELS", "SIZE", "plain_net"]

try:
    from spikingjelly.activation_based.model.spikformer import spikformer_cifar10
except ImportError:  # SpikingJelly 0.0.0.0.14
    spikformer_cifar10 = None

CLASSES = 10
SIZE = 32


def _lif(**kwargs: Any) -> dict[str, Any]:
    return {
        "spiking_neuron": neuron.LIFNode,
        "surrogate_function": surrogate.ATan(),
        "detach_reset": True,
        **kwargs,
    }


def plain_net(depth: int, channels: int) -> nn.Sequential:
    """Conv-BN-LIF, ``depth`` times, and a classifier."""
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [
            layer.Conv2d(channels if index else 3, channels, 3, padding=1, bias=False),
            layer.BatchNorm2d(channels),
            neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True),
        ]
    layers += [layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(channels, CLASSES)]
    return nn.Sequential(*layers)


def make_net(name: str) -> nn.Module:
    """SpikingJelly's models at full width for CIFAR-10, or ``"plain DEPTHxWIDTH"``."""
    if name.startswith("plain "):
        depth, width = map(int, name.removeprefix("plain ").split("x"))
        return plain_net(depth, width)
    return MODELS[name]()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "spiking_resnet18": lambda: spiking_resnet.spiking_resnet18(**_lif(num_classes=CLASSES)),
    "sew_resnet18": lambda: sew_resnet.sew_resnet18(**_lif(num_classes=CLASSES, cnf="ADD")),
    "spiking_vgg11_bn": lambda: spiking_vgg.spiking_vgg11_bn(**_lif(num_classes=CLASSES)),
    "CIFAR10Net": lambda: parametric_lif_net.CIFAR10Net(**_lif()),
}
if spikformer_cifar10 is not None:
    MODELS["spikformer"] = lambda: spikformer_cifar10(num_classes=CLASSES)


class Bench:
    """A network with one batch to train it on.

    What the ways of training it need once, such as compiled copies, they :meth:`keep` here.
    """

    def __init__(
        self, net: str, T: int, batch: int, mode: str, device: torch.device, size: int = SIZE
    ) -> None:
        torch.manual_seed(0)
        self.model = make_net(net).to(device)
        functional.set_step_mode(self.model, mode)
        self.mode = mode
        self.device = device
        # Strong enough for deep layers of an untrained network to spike.
        self.x = 2 * torch.rand(T, batch, 3, size, size, device=device)
        self.y = torch.arange(batch, device=device) % CLASSES
        self.criterion = nn.CrossEntropyLoss()
        self.kept: dict[str, Any] = {}
        self.others: list[nn.Module] = []

    def logits(self, forward: Callable[[Tensor], Tensor]) -> Tensor:
        """The output [N, K] of a model in either step mode, averaged over time."""
        if self.mode == "m":
            return forward(self.x).mean(0)
        return torch.stack([forward(step) for step in self.x]).mean(0)

    def keep(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    def another(self) -> nn.Module:
        """A copy of the model, cleared after each step as the model is."""
        self.others.append(copy.deepcopy(self.model))
        return self.others[-1]

    def clear(self) -> None:
        """What ends a training step, and is not measured: it is the same for all."""
        for model in (self.model, *self.others):
            model.zero_grad()
            functional.reset_net(model)
