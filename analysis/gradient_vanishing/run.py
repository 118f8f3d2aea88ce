"""One training of the study of vanishing gradients, and what is measured of it."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import partial

import numpy as np
import pandas as pd
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from analysis.common.data import batches, in_time, load
from analysis.common.nets import SHAPES
from sj_shortcut import (
    EvolutionarySchedule,
    ShortcutHead,
    ShortcutLoss,
    gradient_flow,
    remove_shortcuts,
    wrap_with_shortcuts,
)

__all__ = [
    "BATCH",
    "EARLY",
    "KEYS",
    "LAYERS_PER_HEAD",
    "LEARNING_RATE",
    "MAPPED",
    "METHODS",
    "Run",
    "T",
    "WIDTH",
    "build",
    "middle",
    "train",
]

T = 4
WIDTH = 16
BATCH = 64
LEARNING_RATE = 0.1
LAYERS_PER_HEAD = 6
MEASURED_BATCHES, MEASURED_BATCH = 8, 64
SPLIT_BATCHES = 2  # of them for the split by source, which takes a backward pass a head
EARLY = 2  # epochs after which all runs are measured, besides before and after training
# These are measured after every epoch, for the map of layers and epochs.
MAPPED = ("digits", "plain", 30, "atan", 0)

METHODS = ("vanilla", "shortcuts")
COLUMNS = (
    "layer", "depth", "weight_grad_norm", "grad_to_weight", "zero_fraction", "output_grad_norm",
    "alive", "firing_rate", "coherence", "coherence_floor", "snr",
)  # fmt: skip
SOURCE_COLUMNS = ("layer", "depth", "source", "weight_grad_norm", "share")


@dataclass(frozen=True)
class Run:
    """One training. Runs that differ in the method alone start from the same weights."""

    data: str
    net: str
    size: int
    surrogate: str
    method: str
    seed: int
    epochs: int

    @property
    def work(self) -> int:
        """Cost in layers times epochs of digits, by which progress is counted."""
        return self.size * (self.epochs + 2) * {"digits": 1, "cifar10": 3, "nmnist": 2}[self.data]


KEYS = tuple(field.name for field in fields(Run))


def middle(depths: Iterable[int]) -> int:
    """The depth that the closer looks are taken at: 30, or the largest below."""
    found = sorted(depths)
    return max((depth for depth in found if depth <= 30), default=found[0])


# Networks.


def lif(shape: str) -> nn.Module:
    """v = v / 4 + x, spike at 0.5, then v = 0, as in other code of the paper's authors.

    The paper's own keeps a half and spikes at 1.
    """
    node: nn.Module = neuron.LIFNode(
        tau=4 / 3,
        decay_input=False,
        v_threshold=0.5,
        v_reset=0.0,
        surrogate_function=SHAPES[shape](),
        detach_reset=True,
    )
    return node


def convolution(in_channels: int) -> nn.Module:
    convolved: nn.Module = layer.Conv2d(in_channels, WIDTH, 3, padding=1, bias=False)
    return convolved


class Block(nn.Module):
    """Two convolutions with an identity beside them, whose sum goes through the last neurons."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self.conv1, self.norm1, self.spikes1 = (
            convolution(WIDTH),
            layer.BatchNorm2d(WIDTH),
            lif(shape),
        )
        self.conv2, self.norm2, self.spikes2 = (
            convolution(WIDTH),
            layer.BatchNorm2d(WIDTH),
            lif(shape),
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.spikes1(self.norm1(self.conv1(x)))
        spikes: Tensor = self.spikes2(self.norm2(self.conv2(out)) + x)
        return spikes


def build(net: str, depth: int, shape: str, in_channels: int) -> nn.Sequential:
    """A network with ``depth`` layers with weights, halved in resolution after a third of them."""
    parts: dict[str, nn.Module] = {}
    steps = depth - 1 if net == "plain" else depth // 2
    for i in range(1, steps + 1):
        if net == "plain" or i == 1:
            parts[f"conv{i}"] = convolution(in_channels if i == 1 else WIDTH)
            parts[f"norm{i}"] = layer.BatchNorm2d(WIDTH)
            parts[f"spikes{i}"] = lif(shape)
        else:
            parts[f"block{i}"] = Block(shape)
        if i == max(1, steps // 3):
            parts["pool"] = layer.MaxPool2d(2)
    parts["mean"], parts["flat"] = layer.AdaptiveAvgPool2d(1), layer.Flatten()
    parts["classifier"] = layer.Linear(WIDTH, 10)
    model = nn.Sequential(OrderedDict(parts))
    functional.set_step_mode(model, "m")
    return model


# One run.


def train(run: Run) -> dict[str, pd.DataFrame]:
    """Train, measure, and return the rows for each table."""
    began = time.process_time()
    torch.set_num_threads(1)
    x, y, test_x, test_y = load(run.data)
    torch.manual_seed(run.seed)
    model: nn.Module = build(run.net, run.size, run.surrogate, x.shape[2])
    criterion: nn.Module = nn.CrossEntropyLoss()
    schedule = EvolutionarySchedule(run.epochs, start=1.0, hold=0.5)
    if run.method == "shortcuts":
        # The paper's heads, over all of the map, as when the tables were measured.
        over_all = partial(ShortcutHead, grid=1)
        wrap_with_shortcuts(model, at=run.size // LAYERS_PER_HEAD, head=over_all)
        criterion = ShortcutLoss(model, criterion, schedule)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, 0.9, weight_decay=1e-4)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.epochs)
    probes = list(batches(x, y, min(MEASURED_BATCH, len(x) // MEASURED_BATCHES), seed=run.seed))
    probes = probes[:MEASURED_BATCHES]

    mapped = (run.data, run.net, run.size, run.surrogate, run.seed) == MAPPED
    due = {0, min(EARLY, run.epochs), run.epochs, *(range(run.epochs) if mapped else ())}
    history, gradients, sources = [], [], []
    for epoch in range(run.epochs + 1):
        if epoch in due:
            gradients.append(gradient_flow(model, criterion, probes).assign(epoch=epoch))
        if epoch == min(EARLY, run.epochs) and run.method == "shortcuts":
            some = probes[:SPLIT_BATCHES]
            flow = gradient_flow(model, criterion, some, by_source=True, activity=False)
            sources.append(flow.assign(epoch=epoch))
        if epoch == run.epochs:
            break
        losses = []
        for batch_x, batch_y in batches(x, y, BATCH, seed=1000 * run.seed + epoch):
            output = model(batch_x).mean(0)
            loss = criterion(output, batch_y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            functional.reset_net(model)
            # What the heads add to the loss would not compare.
            losses.append(float(nn.functional.cross_entropy(output.detach(), batch_y)))
        schedule.step()
        decay.step()
        accuracy = evaluate(model, test_x, test_y)
        history.append({"epoch": epoch + 1, "loss": float(np.mean(losses)), "accuracy": accuracy})
    if run.method == "shortcuts":
        remove_shortcuts(model)
    tags = {"accuracy": evaluate(model, test_x, test_y), "seconds": time.process_time() - began}
    tables = {
        "history": pd.DataFrame(history),
        "gradients": pd.concat(gradients)[["epoch", *COLUMNS]],
        "runs": pd.DataFrame([tags]),
    }
    if sources:
        tables["sources"] = pd.concat(sources)[["epoch", *SOURCE_COLUMNS]]
    return {name: tag(table, run) for name, table in tables.items()}


def tag(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    return pd.concat([pd.DataFrame([asdict(run)] * len(table), index=table.index), table], axis=1)


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    right = 0
    for some_x, some_y in zip(x.split(128), y.split(128), strict=True):
        right += int((model(in_time(some_x)).mean(0).argmax(1) == some_y).sum())
        functional.reset_net(model)
    model.train()
    return right / len(y)
