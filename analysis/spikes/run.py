"""One training of the study of the price, on the ablation's runner."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace

import pandas as pd
import torch
from torch import nn

from analysis.ablation.plan import RATIO, setting
from analysis.ablation.run import Training, evaluate
from analysis.common.data import in_time
from analysis.common.priced import Priced
from sj_shortcut import ShortcutLoss, ShortcutWarning, SpikePrice, remove_shortcuts, spike_report

__all__ = ["Run", "plan", "quick", "train"]


@dataclass(frozen=True)
class Run:
    """One training on digits, of plain convolutional layers.

    Attributes:
        depth: Number of layers.
        heads: Whether with shortcut heads, as they are by default.
        price: Whether with the price on spikes, as it is by default.
    """

    depth: int
    heads: bool
    price: bool
    epochs: int
    seed: int


def plan() -> list[Run]:
    """Two depths, two seeds, with and without heads and price."""
    ways = [(heads, price) for heads in (False, True) for price in (False, True)]
    return [Run(depth, *way, 8, seed) for seed in (0, 1) for depth in (6, 12) for way in ways]


def quick() -> list[Run]:
    """The same in small."""
    return [replace(run, epochs=1) for run in plan() if run.depth == 6 and run.seed == 0]


def train(run: Run) -> dict[str, pd.DataFrame]:
    """Train and count; the rows for each table."""
    torch.set_num_threads(1)
    ratio = RATIO if run.heads else {}
    wanted = setting("digits", "plain", run.depth, "atan", epochs=run.epochs, seed=run.seed)
    training = Training(replace(wanted, **ratio))
    model, schedule = training.model, training.schedule
    if run.price and run.heads:
        training.criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), schedule, price=True)
    elif run.price:
        training.criterion = Priced(SpikePrice(model))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for epoch in range(1, run.epochs + 1):
            training.one_epoch(epoch)
    if run.heads:
        remove_shortcuts(model)
    x, y = training.test_x, training.test_y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ShortcutWarning)
        report = spike_report(model, (in_time(x, 2), y))
    neurons = report[report["kind"] == "neurons"]
    row = {
        **asdict(run),
        "test_accuracy": evaluate(model, x, y, 2)["main"],
        "val_accuracy": training.history[-1]["val_accuracy"],
        "spikes": report["spikes"].sum(),
        "synops": report["synops"].sum(),
        "macs": report["macs"].sum(),
        "silent": (neurons["silent"] * neurons["neurons"]).sum() / neurons["neurons"].sum(),
        "lowest_rate": neurons["firing_rate"].min(),
        "warnings": sum(w.category is ShortcutWarning for w in told),
    }
    layers = neurons[["layer", "firing_rate", "silent"]].assign(**asdict(run))
    return {"layers": layers, "runs": pd.DataFrame([row])}
