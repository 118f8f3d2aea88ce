"""One training of the study of the paper's claims, and what is measured of it."""

from __future__ import annotations

import time
from dataclasses import asdict

import pandas as pd
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from analysis.common.firing import spikes_counted
from analysis.common.images import Part, augmented_batches, load_images
from analysis.common.versions import made_with
from analysis.paper.nets import SpikingResNet
from analysis.paper.plan import Run
from sj_shortcut import (
    EvolutionarySchedule,
    ShortcutLoss,
    ShortcutSchedule,
    evolutionary_training,
    has_shortcuts,
    remove_shortcuts,
    shortcut_backpropagation,
    shortcut_logits,
    shortcuts_enabled,
    wrap_with_shortcuts,
)

__all__ = [
    "FULL_WIDTH_TABLES",
    "TABLES",
    "Training",
    "loss_of_every_step",
    "train",
    "train_at_full_width",
    "train_on",
]

TABLES = ("history", "runs")
FULL_WIDTH_TABLES = ("full_width_history", "full_width_runs")

VALIDATION, TEST = 200, 500  # images of each class
WEIGHT_DECAY = 0.02  # the paper's, as are the optimizer and the cosine
EVALUATED = 250  # images at once


def train(run: Run) -> dict[str, pd.DataFrame]:
    """Train on one thread of the processor, measure, and return the rows for each table."""
    torch.set_num_threads(1)
    return train_on(run, torch.device("cpu"))


def train_at_full_width(device: str, run: Run) -> dict[str, pd.DataFrame]:
    """The same on a device, for tables of their own."""
    rows = train_on(run, torch.device(device))
    return dict(zip(FULL_WIDTH_TABLES, (rows[table] for table in TABLES), strict=True))


def train_on(run: Run, device: torch.device) -> dict[str, pd.DataFrame]:
    """Rows of one training for the tables "history" and "runs"."""
    training = Training(run, device)
    for epoch in range(run.epochs):
        training.one_epoch(epoch)
    return training.tables()


class Training:
    """The model of a run, and what was measured of it so far."""

    def __init__(self, run: Run, device: torch.device) -> None:
        self.run, self.device = run, device
        self.images = load_images(run.data, run.images, VALIDATION, TEST).to(device)
        self.made_with = made_with(device)
        torch.manual_seed(run.seed)
        model = SpikingResNet(run.net, run.depth, run.width)
        self.criterion, self.schedule = with_method(run, model)
        # Convolutions on a processor are a seventh faster so.
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), run.lr, weight_decay=WEIGHT_DECAY
        )
        self.steps = -(-len(self.images.train) // run.batch)  # in an epoch
        self.decay = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, run.epochs * self.steps
        )
        # Half precision needs its gradients scaled; the processor's has the range of single.
        self.precision = torch.float16 if device.type == "cuda" else torch.bfloat16
        scaled = run.amp and device.type == "cuda"
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self.seconds = 0.0
        self.history: list[dict[str, float | str]] = []

    def one_epoch(self, epoch: int) -> None:
        """Train for one epoch; only this is timed."""
        began = self.now()
        total = torch.zeros((), device=self.device)
        batches = augmented_batches(self.images, self.run.batch, 1000 * self.run.seed + epoch)
        for step, (x, y) in enumerate(batches):
            if isinstance(self.schedule, EvolutionarySchedule):
                # λ is one of iterations: epochs and the part of this one that is over.
                self.schedule.step(epoch + step / self.steps)
            with self.autocast():
                output = self.model(in_time(x, self.run.T))
                loss = self.criterion(output if self.run.method == "tet" else output.mean(0), y)
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.decay.step()
            functional.reset_net(self.model)
            # What heads add to the loss would not compare.
            total += nn.functional.cross_entropy(output.detach().float().mean(0), y)
        if self.schedule is not None:
            self.schedule.step(epoch + 1)
        self.seconds += self.now() - began
        coefficient = 0.0 if self.schedule is None else self.schedule.coefficient
        row = {"epoch": epoch + 1, "loss": float(total / self.steps), "seconds": self.seconds}
        self.history.append({"run": self.run.key, **row, "coefficient": coefficient})

    def tables(self) -> dict[str, pd.DataFrame]:
        """Accuracies of the finished network, with its heads and, as it is used, without."""
        together = float("nan")
        if self.run.method == "eq6":
            together = self.accuracy(self.images.test, with_heads=True)
        if has_shortcuts(self.model):
            remove_shortcuts(self.model)
        val = self.accuracy(self.images.val)
        with spikes_counted(self.model) as layers:
            test = self.accuracy(self.images.test)
        spikes = sum(each["spikes"] for each in layers)
        row = {
            "run": self.run.key,
            **asdict(self.run),
            "val_accuracy": val,
            "test_accuracy": test,
            "test_with_heads": together,
            "train_loss": self.history[-1]["loss"],
            "firing_rate": spikes / sum(each["places"] for each in layers),
            "spikes": spikes / len(self.images.test),
            "seconds": self.seconds,
            **self.made_with,
        }
        return {"history": pd.DataFrame(self.history), "runs": pd.DataFrame([row])}

    @torch.no_grad()
    def accuracy(self, part: Part, with_heads: bool = False) -> float:
        """Share of images told right, by the output or by the sum that Eq. 6 trains."""
        self.model.eval()
        right = 0
        for x, y in zip(part.x.split(EVALUATED), part.y.split(EVALUATED), strict=True):
            with self.autocast():
                right += int((self.logits(x, with_heads).argmax(1) == y).sum())
            functional.reset_net(self.model)
        self.model.train()
        return right / len(part)

    def logits(self, x: Tensor, with_heads: bool) -> Tensor:
        shown = in_time(self.images.normalised(x), self.run.T)
        if not with_heads:
            output: Tensor = self.model(shown).mean(0)
            return output
        with shortcuts_enabled(self.model):
            output = self.model(shown).mean(0)
            return output + torch.stack(list(shortcut_logits(self.model).values())).sum(0)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.run.amp)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()


def with_method(run: Run, model: nn.Module) -> tuple[nn.Module, ShortcutSchedule | None]:
    """What a method trains with: heads in the model, where it has any, its loss and its λ."""
    plain = nn.CrossEntropyLoss()
    if run.method == "eq6":
        loss = shortcut_backpropagation(model, plain)
        return loss, loss.schedule
    if run.method == "eq10":
        loss = evolutionary_training(model, plain, run.epochs)
        return loss, loss.schedule
    if run.method == "defaults":
        wrap_with_shortcuts(model, grid=2)
        loss = ShortcutLoss(model, plain)
        return loss, loss.schedule
    if run.method == "tet":
        return EveryStep(), None
    return plain, None


class EveryStep(nn.Module):
    """Cross-entropy of every time step by itself, averaged (TET without its second term)."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return loss_of_every_step(output, target)


def loss_of_every_step(output: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over time steps of logits ``[T, N, K]``."""
    steps = [nn.functional.cross_entropy(step, target) for step in output]
    return torch.stack(steps).mean()


def in_time(x: Tensor, steps: int) -> Tensor:
    """``[T, N, C, H, W]``: a still image is shown at every time step."""
    return x.expand(steps, *x.shape)
