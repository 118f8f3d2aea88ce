"""Shortcut heads as one would write them without this package, to compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from spikingjelly.activation_based import base, functional, layer, neuron, surrogate
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from analysis.overhead.nets import CLASSES, Bench
from sj_shortcut import ShortcutPoint, shortcut_points
from sj_shortcut.places.at import choose_points

__all__ = ["FeatureExtractor", "HEADS", "Hooked", "choose"]

HeadFactory = Callable[[int, str], nn.Module]


def choose(model: nn.Module) -> list[ShortcutPoint]:
    """The points of the default heads, so that all compare at the same ones."""
    return choose_points(shortcut_points(model), model, "auto")


class StepHead(nn.Module):
    """Average over 2 x 2 parts of space, then linear, each time step; over time in the end."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4 * channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[T, N, K] of [T, N, C, H, W], or [N, K] of [N, C, H, W]."""
        parts = nn.functional.adaptive_avg_pool2d(x.flatten(0, -4), 2)
        features = parts.reshape(*x.shape[:-3], -1)
        logits: Tensor = self.linear(features)
        return logits


def conv_spiking_head(channels: int, mode: str) -> nn.Module:
    """Convolution, batch norm and spiking neurons at each time step, then average and linear."""
    head = nn.Sequential(
        layer.Conv2d(channels, channels, 3, padding=1, bias=False),
        layer.BatchNorm2d(channels),
        neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True),
        layer.AdaptiveAvgPool2d(1),
        layer.Flatten(),
        layer.Linear(channels, CLASSES),
    )
    functional.set_step_mode(head, mode)
    return head


HEADS: dict[str, HeadFactory] = {
    "linear": lambda channels, mode: StepHead(channels),
    "convolutional": conv_spiking_head,
}


class Hooked(nn.Module):
    """A model, hooks that keep what its points give, and a head for each."""

    def __init__(
        self, model: nn.Module, points: Sequence[ShortcutPoint], head: HeadFactory, mode: str
    ) -> None:
        super().__init__()
        self.model = model
        self.mode = mode
        self.heads = nn.ModuleList([head(point.channels or 0, mode) for point in points])
        self.kept: list[list[Tensor]] = [[] for _ in points]
        self.handles = [
            model.get_submodule(point.name).register_forward_hook(partial(_keep, kept))
            for point, kept in zip(points, self.kept, strict=True)
        ]

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits [N, K] of the model and of each head."""
        output = self.model(x) if self.mode == "m" else torch.stack([self.model(s) for s in x])
        shortcuts = []
        for head, kept in zip(self.heads, self.kept, strict=True):
            steps = head(kept[0]) if self.mode == "m" else torch.stack([head(s) for s in kept])
            shortcuts.append(steps.mean(0))
            kept.clear()
        return output.mean(0), shortcuts

    def loss(self, bench: Bench) -> Tensor:
        output, shortcuts = self(bench.x)
        total: Tensor = bench.criterion(output, bench.y)
        for logits in shortcuts:
            total = total + bench.criterion(logits, bench.y)
        return total

    def unhook(self) -> None:
        for handle in self.handles:
            handle.remove()


def _keep(kept: list[Tensor], module: nn.Module, args: object, output: Tensor) -> None:
    kept.append(output)


class FeatureExtractor(nn.Module):
    """torchvision's extractor of the points and the output, and a linear head for each point.

    Args:
        model: The model.
        points: Where the heads sit.
        whole: Tell the tracer to leave SpikingJelly's layers and neurons whole. It knows only
            PyTorch's by itself.
    """

    def __init__(
        self, model: nn.Module, points: Sequence[ShortcutPoint], whole: bool = True
    ) -> None:
        super().__init__()
        kinds = {type(module) for module in model.modules() if isinstance(module, base.StepModule)}
        leaves = {"leaf_modules": list(kinds)} if whole else {}
        last = get_graph_node_names(model, tracer_kwargs=leaves)[0][-1]
        self.names = [point.name for point in points]
        self.extractor = create_feature_extractor(
            model, {**{name: name for name in self.names}, last: "output"}, tracer_kwargs=leaves
        )
        heads = [nn.Linear(4 * (point.channels or 0), CLASSES) for point in points]
        self.heads = nn.ModuleList(heads)

    def loss(self, bench: Bench) -> Tensor:
        """As the default heads: average over time and 2 x 2 parts of space, then linear."""
        if bench.mode == "m":
            found = self.extractor(bench.x)
        else:
            steps = [self.extractor(step) for step in bench.x]
            found = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
        total: Tensor = bench.criterion(found["output"].mean(0), bench.y)
        for name, head in zip(self.names, self.heads, strict=True):
            parts = nn.functional.adaptive_avg_pool2d(found[name].mean(0), 2)
            total = total + bench.criterion(head(parts.flatten(1)), bench.y)
        return total
