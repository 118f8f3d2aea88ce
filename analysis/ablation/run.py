"""One training of the ablation study, and what is measured of it."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Literal

import pandas as pd
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from analysis.ablation.rules import RULES, ReadsGradients
from analysis.common.data import batches, in_time, load, split_by_class
from analysis.common.firing import firing_rates, spikes_counted
from analysis.common.nets import build
from sj_shortcut import (
    ConstantSchedule,
    EvolutionarySchedule,
    ShortcutHead,
    ShortcutLoss,
    ShortcutSchedule,
    gradient_flow,
    remove_shortcuts,
    shortcut_logits,
    shortcuts_enabled,
    wrap_with_shortcuts,
)

__all__ = ["Run", "Training", "firing_rates_in_training", "train"]

VALIDATION = 0.2  # of the training data of each class, for every choice
PROBED_BATCHES = 4

Combine = Literal["loss", "logits"]

TEST_IMAGES = 100  # of each class of CIFAR-10 and Fashion-MNIST
# name -> batch size, factor of the widths
SIZES = {"digits": (32, 1.0), "fashion": (50, 0.5), "nmnist": (32, 0.5), "cifar10": (50, 0.5)}

SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {"hold": 0.0},
    "linear-by-step": {"hold": 0.0},
    "cosine": {"shape": "cosine", "hold": 0.0},
    "exponential": {"shape": "exponential", "hold": 0.0},
    "hold-linear": {"hold": 0.5},
    "hold-cosine": {"shape": "cosine", "hold": 0.5},
}


@dataclass(frozen=True)
class Run:
    """One training. Runs of one seed start from the same weights and see the same batches.

    Attributes:
        head: "none", "average" for one over space, or "grid4" for those over 4 x 4 parts of it.
        at: "none" for vanilla, what `wrap_with_shortcuts` takes, or "every:3" for a head every
            three layers of the depth.
        schedule: "none", "constant", one of `SCHEDULES`, or a rule of `rules.py`.
        start: λ at first.
        images: Training images of each class, those for validation included; 0 for all there are.
        clip: Largest norm of the whole gradient; 0 if it is not clipped.
    """

    data: str
    images: int
    net: str
    depth: int
    T: int
    surrogate: str
    head: str
    at: str
    combine: Combine
    schedule: str
    start: float
    per_step: bool
    lr: float
    epochs: int
    seed: int
    clip: float = 0.0

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Run:
        """The run of a row of runs.csv."""
        kinds = {"int": int, "float": float, "bool": bool, "str": str, "Combine": str}
        return cls(**{each.name: kinds[str(each.type)](row[each.name]) for each in fields(cls)})

    @property
    def key(self) -> str:
        """Short name of the run in every table."""
        values = list(asdict(self).values())
        if not self.clip:  # as the keys were before there was clipping
            values.pop()
        return hashlib.sha1(repr(tuple(values)).encode()).hexdigest()[:8]

    @property
    def work(self) -> float:
        """Cost in layers times epochs of digits at T = 2, by which progress is counted."""
        images = self.images / 150
        each = {"digits": 1, "fashion": images / 1.3, "nmnist": 1.5, "cifar10": images}[self.data]
        return self.depth * self.epochs * each * self.T / 2


def train(run: Run) -> dict[str, pd.DataFrame]:
    """Train, measure, and return the rows for each table."""
    torch.set_num_threads(1)
    training = Training(run)
    for epoch in range(1, run.epochs + 1):
        training.one_epoch(epoch)
    return training.tables()


class Training:
    """The model of a run, and what was measured of it so far."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.batch, scale = SIZES[run.data]
        x, y, self.test_x, self.test_y = load(run.data, run.T, (run.images, TEST_IMAGES))
        (self.x, self.y), (self.val_x, self.val_y) = split_by_class(x, y, VALIDATION)
        torch.manual_seed(run.seed)
        self.model: nn.Module = build(run.net, run.depth, run.surrogate, x.shape[2], scale)
        self.criterion: nn.Module = nn.CrossEntropyLoss()
        self.schedule = make_schedule(run)
        self.put_heads()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), run.lr, momentum=0.9, weight_decay=1e-4
        )
        self.decay = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, run.epochs)
        every = batches(self.x, self.y, self.batch, run.seed, run.T)
        self.probes = [next(every) for _ in range(PROBED_BATCHES)]
        self.untrained = firing_rates_in_training(self.model, [x for x, _ in self.probes])
        self.seconds = 0.0
        self.history: list[dict[str, object]] = []
        self.heads: list[dict[str, object]] = []
        self.gradients: list[pd.DataFrame] = []
        self.probe(0)

    def put_heads(self) -> None:
        """The heads of the run, where it has any, and their loss."""
        run = self.run
        if self.schedule is None:
            return
        at: str | int = run.at
        if run.at.startswith("every:"):
            at = max(1, run.depth // int(run.at.removeprefix("every:")) - 1)
        grid = 1 if run.head == "average" else int(run.head.removeprefix("grid"))
        wrap_with_shortcuts(self.model, at=at, head=partial(ShortcutHead, grid=grid))
        self.criterion = ShortcutLoss(
            self.model,
            self.criterion,
            self.schedule,
            combine=run.combine,
            per_step=run.per_step,
        )

    def one_epoch(self, epoch: int) -> None:
        """Train for one epoch, then measure; only the training is timed."""
        began = time.process_time()
        total, count = torch.zeros(()), 0
        seed = 1000 * self.run.seed + epoch
        steps = len(self.x) // self.batch
        for step, (x, y) in enumerate(batches(self.x, self.y, self.batch, seed, self.run.T)):
            if self.schedule is not None and self.run.schedule == "linear-by-step":
                # Eq. 10 of the paper counts iterations.
                self.schedule.step(epoch - 1 + step / steps)
            output = self.model(x)
            loss = self.criterion(output if self.run.per_step else output.mean(0), y)
            self.optimizer.zero_grad()
            loss.backward()
            if self.run.clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.run.clip)
            self.optimizer.step()
            functional.reset_net(self.model)
            # What the heads add to the loss would not compare.
            total += nn.functional.cross_entropy(output.detach().mean(0), y)
            count += 1
        if isinstance(self.schedule, ReadsGradients):
            self.schedule.probe(self.model, self.probes)
        if self.schedule is not None:
            self.schedule.step()
        self.decay.step()
        self.seconds += time.process_time() - began
        self.measure(epoch, float(total / count))

    def measure(self, epoch: int, loss: float) -> None:
        right = evaluate(self.model, self.val_x, self.val_y, self.run.T)
        after = 0.0 if self.schedule is None else self.schedule.coefficient
        self.history.append(
            {
                "epoch": epoch,
                "seconds": self.seconds,
                "loss": loss,
                "val_accuracy": right.pop("main"),
                "coefficient": after,
            }
        )
        for head, accuracy in right.items():
            assert self.schedule is not None  # without a schedule there are no heads
            own = self.schedule.coefficient_of(head)
            self.heads.append(
                {"epoch": epoch, "head": head, "val_accuracy": accuracy, "coefficient": own}
            )
        if epoch in (1, 2, 4, 8, 16, 32, self.run.epochs):
            self.probe(epoch)

    def probe(self, epoch: int) -> None:
        """Gradient of the loss that trains, in the first three layers and the last convolution."""
        flow = gradient_flow(self.model, self.criterion, self.probes, activity=False)
        chosen = flow.iloc[[0, 1, 2, len(flow) - 2]].reset_index(drop=True)
        columns = chosen[["layer", "weight_grad_norm", "coherence", "coherence_floor"]]
        self.gradients.append(columns.assign(epoch=epoch, place=["1", "2", "3", "last"]))

    def tables(self) -> dict[str, pd.DataFrame]:
        if self.schedule is not None:
            remove_shortcuts(self.model)
        with spikes_counted(self.model) as layers:
            accuracy = evaluate(self.model, self.test_x, self.test_y, self.run.T)["main"]
        spikes = sum(each["spikes"] for each in layers)
        row = {
            **asdict(self.run),
            "val_accuracy": self.history[-1]["val_accuracy"],
            "test_accuracy": accuracy,
            "firing_rate": spikes / sum(each["places"] for each in layers),
            "spikes": spikes / len(self.test_y),
            "seconds": self.seconds,
        }
        tables = {
            "history": pd.DataFrame(self.history),
            "gradients": pd.concat(self.gradients),
            "firing": pd.DataFrame(
                {
                    "layer": range(1, len(layers) + 1),
                    "firing_rate": firing_rates(layers),
                    "untrained": self.untrained,
                }
            ),
            "runs": pd.DataFrame([row]),
        }
        if self.heads:
            tables["heads"] = pd.DataFrame(self.heads)
        for table in tables.values():
            table.insert(0, "run", self.run.key)
        return tables


def make_schedule(run: Run) -> ShortcutSchedule | None:
    if run.schedule == "none":
        return None
    if run.schedule == "constant":
        return ConstantSchedule(run.start)
    if run.schedule in RULES:
        return RULES[run.schedule](run.start)
    # Of summed logits the last epochs have to be trained without heads; step by step, λ is near
    # enough to 0 in the last one.
    by_step = run.schedule == "linear-by-step"
    finish = 0.9 if run.combine == "logits" and not by_step else 1.0
    options = SCHEDULES[run.schedule]
    return EvolutionarySchedule(run.epochs, start=run.start, finish=finish, **options)


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> dict[str, float]:
    """Accuracy of the output ("main") and of each head by name."""
    wrapped = any(name.endswith("shortcut_head") for name, _ in model.named_modules())
    model.eval()
    right: dict[str, int] = {}
    with shortcuts_enabled(model) if wrapped else torch.no_grad():
        for some_x, some_y in zip(x.split(128), y.split(128), strict=True):
            logits = {"main": model(in_time(some_x, steps)).mean(0)}
            if wrapped:
                logits |= shortcut_logits(model)
            for name, each in logits.items():
                right[name] = right.get(name, 0) + int((each.argmax(1) == some_y).sum())
            functional.reset_net(model)
    model.train()
    return {name: count / len(y) for name, count in right.items()}


@torch.no_grad()
def firing_rates_in_training(model: nn.Module, batches: list[Tensor]) -> list[float]:
    """Firing rate of each layer with batch norm as in training; the model stays as it is."""
    model = copy.deepcopy(model)
    with spikes_counted(model) as layers:
        for x in batches:
            model(x)
            functional.reset_net(model)
    return firing_rates(layers)
