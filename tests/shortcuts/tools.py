"""What several tests of heads use."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, layer
from torch import Tensor, nn

from sj_shortcut import (
    ShortcutBranch,
    ShortcutLoss,
    shortcut_branches,
    shortcut_logits,
    wrap_with_shortcuts,
)
from sj_shortcut.shortcuts.forwards import Record
from sj_shortcut.shortcuts.hooks import forwards_of
from sj_shortcut.shortcuts.pairing import gathered
from tests.nets.zoo import ZOO, conv_net, lif

sizes = st.integers(1, 5)
spaces = st.lists(st.integers(1, 8), max_size=3)  # none, [L], [H, W] or [D, H, W]
grids = st.integers(1, 4)
both_modes = pytest.mark.parametrize("mode", ["m", "s"])


def random_features(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def averages(x: Tensor, grid: int) -> Tensor:
    """Features ``[N, C, ...]`` averaged over each part of space, by hand: ``[N, C * parts]``."""
    if x.ndim == 5:
        x = x.mean(2)
    if grid == 1:
        return x.reshape(*x.shape[:2], -1).mean(2)
    if x.ndim == 2:
        return x.repeat_interleave(grid * grid, 1)
    counts = [grid, grid] if x.ndim == 4 else [grid * grid]
    for axis, count in enumerate(counts, 2):
        size = x.shape[axis]
        parts = [
            x.narrow(axis, i * size // count, -(-(i + 1) * size // count) - i * size // count)
            for i in range(count)
        ]
        x = torch.cat([part.mean(axis, keepdim=True) for part in parts], axis)
    return x.flatten(1)


def feed(branch: ShortcutBranch, x: Tensor, mode: str, per_step: bool = False) -> Tensor:
    """As the hooks do: features ``[T, N, C, ...]`` at once, or a step a call in mode 's'."""
    record = Record(branch.forwards, graded=True)
    for part in [x] if mode == "m" else x:
        logits = branch(part, with_time=mode == "m", per_step=per_step)
        record.add(branch.name, logits, len(x) if mode == "m" else 1, mode == "m")
    return gathered([record], [branch.name], per_step=per_step)[branch.name]


class SpikingHead(nn.Module):
    """SpikingJelly's layers with a neuron: its logits depend on the order of the steps."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = layer.Conv2d(channels, 5, 3, padding=1)
        self.spike = lif()
        self.pool = layer.AdaptiveAvgPool2d(1)
        self.flatten = layer.Flatten()
        self.linear = layer.Linear(5, classes)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return self.linear(self.flatten(self.pool(self.spike(self.conv(x)))))


def conv_net_with(head: Callable[[int, int], nn.Module], mode: str) -> nn.Module:
    torch.manual_seed(0)
    model = conv_net()
    functional.set_step_mode(model, mode)
    return wrap_with_shortcuts(model, at="1", head=head)


def run(model: nn.Module, mode: str, per_step: bool = False, seed: int = 1) -> Tensor:
    """One training step without an optimizer; the loss is returned, gradients are left."""
    specimen = ZOO["conv_net"]
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), per_step=per_step)
    outputs = specimen.outputs(model, specimen.sequence(seed), mode)
    loss = criterion(outputs if per_step else outputs.mean(0), specimen.target())
    loss.backward()
    return loss


def head_of(model: nn.Module) -> nn.Module:
    return shortcut_branches(model)["1"].head


def step_logits(model: nn.Module, name: str) -> Tensor:
    """Logits ``[T, N, K]`` of a head since the last reset."""
    return gathered(forwards_of(model).records, [name], per_step=True)[name]


def has_logits(model: nn.Module) -> bool:
    """Whether any head has logits to read."""
    try:
        return bool(shortcut_logits(model))
    except RuntimeError as error:
        assert "logits" in str(error) or "rest" in str(error)
        return False
