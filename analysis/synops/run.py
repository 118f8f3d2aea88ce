"""One training of the study of operations, on the ablation's runner."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

import pandas as pd
import torch
from torch import nn

from analysis.ablation.plan import RATIO
from analysis.ablation.run import Training as Ablation
from analysis.ablation.run import evaluate
from analysis.common.data import in_time
from analysis.common.priced import Priced
from analysis.synops.plan import Run
from sj_shortcut import (
    ShortcutLoss,
    ShortcutWarning,
    SpikePrice,
    has_shortcuts,
    remove_price,
    remove_shortcuts,
    spike_report,
    wrap_with_shortcuts,
)

__all__ = ["TABLES", "train"]

TABLES = ("layers", "runs")
MEASURED = 500  # test samples whose operations are counted


def train(run: Run) -> dict[str, pd.DataFrame]:
    """Train on one thread, count what an inference takes, and return the rows for each table."""
    torch.set_num_threads(1)
    with quiet() as told:
        training = Training(run)
        for epoch in range(1, run.epochs + 1):
            training.one_epoch(epoch)
    model = training.model
    if has_shortcuts(model):
        remove_shortcuts(model)
    remove_price(model)
    x, y = training.test_x[:MEASURED], training.test_y[:MEASURED]
    with quiet():
        report = spike_report(model, (in_time(x, run.T), y))
    neurons = report[report["kind"] == "neurons"]
    row = {
        **asdict(run),
        "val_accuracy": evaluate(model, training.val_x, training.val_y, run.T)["main"],
        "test_accuracy": evaluate(model, training.test_x, training.test_y, run.T)["main"],
        "train_loss": training.loss,
        "spikes": report["spikes"].sum(),
        "synops": report["synops"].sum(),
        "macs": report["macs"].sum(),
        "silent": (neurons["silent"] * neurons["neurons"]).sum() / neurons["neurons"].sum(),
        "lowest_rate": neurons["firing_rate"].min(),
        "seconds": training.seconds,
        "warnings": sum(w.category is ShortcutWarning for w in told),
    }
    tables = {
        "layers": neurons[["depth", "firing_rate", "silent"]].reset_index(drop=True),
        "runs": pd.DataFrame([row]),
    }
    for table in tables.values():
        table.insert(0, "run", run.key)
    return tables


class Training(Ablation):
    """The ablation's training with this run's heads and price, without its measurements."""

    def __init__(self, run: Run) -> None:
        self.own = run
        self.loss = float("nan")
        heads = {} if run.reads == "none" else RATIO  # of which only the schedule counts
        super().__init__(replace(run.vanilla, **heads))

    def put_heads(self) -> None:
        """The heads and the price of the run."""
        run, model = self.own, self.model
        if run.reads != "none":
            wrap_with_shortcuts(model, grid=run.grid, reads=run.reads)
        price = SpikePrice(model, factor=run.factor) if run.factor else None
        if run.reads != "none":
            self.criterion = ShortcutLoss(
                model, nn.CrossEntropyLoss(), self.schedule, price=price or False
            )
        elif price is not None:
            self.criterion = Priced(price)

    def measure(self, epoch: int, loss: float) -> None:
        """Only the loss: all else is measured at the end."""
        self.loss = loss

    def probe(self, epoch: int) -> None:
        """No gradients are looked at."""


@contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Warnings are counted instead of shown."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield told
