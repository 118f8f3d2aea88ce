"""From flags and data to all that a training consists of: model, heads, loss, optimizer."""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from sj_shortcut import (
    ConstantSchedule,
    EvolutionarySchedule,
    HandoverSchedule,
    NeuronBackend,
    ShortcutLoss,
    ShortcutSchedule,
    SpikePrice,
    set_backend,
    shortcut_branches,
    shortcut_points,
    wrap_with_shortcuts,
)

from . import models, processes, sharding
from .errors import UserError, one_line
from .loading import Data, Loaders, make_loaders
from .processes import World

__all__ = ["OverTime", "Position", "Run", "add_method", "build", "check_output", "seed_everything"]


@dataclass
class Position:
    """How far a training has come, to the batch."""

    epoch: int = 0
    batch: int = 0
    skipped: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    totals: dict[str, float] = field(default_factory=dict)


@dataclass
class Run:
    """All that a training consists of."""

    args: argparse.Namespace
    script: str
    world: World
    data: Data
    model: nn.Module
    over_time: OverTime
    forward: nn.Module
    criterion: Any
    optimizer: torch.optim.Optimizer
    lr: LambdaLR
    scaler: torch.amp.GradScaler
    loaders: Loaders
    backends: list[NeuronBackend]
    heads: list[str]
    sharded: bool
    position: Position = field(default_factory=Position)
    history: list[dict[str, float]] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    saved_at: tuple[int, int] = (0, 0)

    @property
    def folder(self) -> Path:
        return Path(self.args.out)

    @property
    def settings(self) -> dict[str, Any]:
        """The flags that make this run what it is."""
        transient = ("resume", "debug", "load_only", "changed")
        return {name: value for name, value in vars(self.args).items() if name not in transient}

    @property
    def has_heads(self) -> bool:
        return isinstance(self.criterion, ShortcutLoss)

    @property
    def price(self) -> SpikePrice | None:
        return getattr(self.criterion, "price", None)


def build(args: argparse.Namespace, script: str, world: World, data: Data) -> Run:
    """Model, heads, loss and optimizer; and what runs them on the device, or on many."""
    loaders = make_loaders(data, args, world)
    x = data.test[0][0]
    x = torch.zeros(2, *x.shape)
    model = models.build(args, len(data.classes), x.shape[-3])
    over_time = OverTime(model, args.T, args.step_mode)
    check_output(model, over_time, x, len(data.classes), args)
    loss = nn.CrossEntropyLoss(class_weights(args, data)).to(world.device)
    criterion = add_method(args, model, over_time.steps(x), len(data.classes), loss)
    if world.size > 1:
        processes.synchronize_batch_norm(model)
    sharded = args.fsdp and world.size > 1
    if sharded:
        sharding.shard(model, world, args.method != "vanilla")
    else:
        model.to(world.device)
    try:
        backends = set_backend(model, args.backend)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"--backend {args.backend}: {one_line(error)}") from error
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(args, model)
    forward: nn.Module = over_time
    if args.compile:
        compiled: Any = torch.compile(forward)
        forward = compiled
    if world.size > 1 and not sharded:
        devices = [world.device] if world.device.type == "cuda" else None
        forward = DistributedDataParallel(forward, devices)
    torch.manual_seed(args.seed + world.rank)  # dropout must differ from process to process
    steps = len(loaders.batches)
    return Run(
        args, script, world, data, model, over_time, forward, criterion, optimizer,
        lr=LambdaLR(optimizer, LearningRate(args.warmup_epochs * steps, args.epochs * steps)),
        scaler=torch.amp.GradScaler(world.device.type, enabled=args.amp == "fp16"),
        loaders=loaders,
        backends=backends,
        heads=[] if args.method == "vanilla" else list(shortcut_branches(model)),
        sharded=sharded,
    )  # fmt: skip


class OverTime(nn.Module):
    """Runs a model over T time steps, in either step mode: [N, ...] in, logits [T, N, K] out."""

    def __init__(self, model: nn.Module, T: int, step_mode: str) -> None:
        super().__init__()
        self.model, self.T, self.step_mode = model, T, step_mode

    def steps(self, x: Tensor) -> Tensor:
        """What the model sees in one call."""
        if x.ndim == 5:  # frames of events, [N, T, C, H, W]
            x = x.transpose(0, 1)
        else:  # an image [N, C, H, W] is shown T times
            x = x.expand(self.T, *x.shape)
        return x.contiguous() if self.step_mode == "m" else x[0]

    def forward(self, x: Tensor) -> Tensor:
        if self.step_mode == "m":
            logits: Tensor = self.model(self.steps(x))
            return logits
        frames = x.transpose(0, 1) if x.ndim == 5 else [x] * self.T
        return torch.stack([self.model(frame) for frame in frames])


def check_output(
    model: nn.Module, over_time: OverTime, x: Tensor, classes: int, args: argparse.Namespace
) -> None:
    """Fail early, and in words, if model and data do not fit."""
    try:
        found = shortcut_points(model, over_time.steps(x)).num_classes
    except ValueError as error:
        size = "x".join(map(str, x.shape[-2:]))
        raise UserError(
            f"--model {args.model} cannot run on samples of {x.shape[-3]} channels and {size} "
            f"pixels ({one_line(error)}): choose another model or size"
        ) from error
    if found != classes:
        raise UserError(
            f"--model {args.model} gives {found} outputs, but {args.dataset} has {classes} classes"
        )


def class_weights(args: argparse.Namespace, data: Data) -> Tensor | None:
    """What samples weigh, so that all classes weigh the same however many samples they have."""
    if args.class_weights == "equal":
        return None
    counts = torch.tensor(data.train.counts(len(data.classes)))
    if not counts.all():
        raise UserError(f"--class-weights: no training sample of {data.classes[counts.argmin()]}")
    return counts.sum() / (len(counts) * counts)


def add_method(
    args: argparse.Namespace, model: nn.Module, example: Tensor, classes: int, loss: nn.Module
) -> Any:
    """Give the model its heads, and return the loss that trains with them."""
    price = None if args.price is None else partial(SpikePrice, factor=args.price)
    if args.method == "vanilla":
        task = over_steps(loss) if args.per_step else loss
        return task if price is None else Priced(task, price(model))
    at = int(args.at) if args.at.isdecimal() else args.at
    if isinstance(at, str) and "," in at:
        at = [name.strip() for name in at.split(",")]
    try:
        wrap_with_shortcuts(
            model, at, num_classes=classes, grid=args.grid, reads=args.reads, example_input=example
        )
    except ValueError as error:
        raise UserError(f"--at {args.at}: {one_line(error)}") from error
    schedule = make_schedule(args)
    options = {"combine": args.combine, "per_step": args.per_step}
    return ShortcutLoss(model, loss, schedule, price=price is not None and price(model), **options)


class Priced(nn.Module):
    """A loss and the price on spikes, for a model without heads."""

    def __init__(self, task: Callable[[Tensor, Tensor], Tensor], price: SpikePrice) -> None:
        super().__init__()
        self.task, self.price = task, price
        self.parts: dict[str, Tensor] = {}

    def forward(self, output: Tensor, y: Tensor) -> Tensor:
        main = self.task(output, y)
        price: Tensor = self.price(output)
        total = main + price
        self.parts = {"total": total, "main": main, "price": price}
        return total


def make_schedule(args: argparse.Namespace) -> ShortcutSchedule:
    if args.method == "shortcut":
        return ConstantSchedule(args.lambda_start)
    if args.method == "handover":
        return HandoverSchedule(args.lambda_start)
    try:
        return EvolutionarySchedule(
            args.epochs, args.schedule, start=args.lambda_start, end=args.lambda_end,
            hold=args.hold, finish=args.finish,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(
            f"--lambda-start, --lambda-end, --hold and --finish do not fit: {one_line(error)}"
        ) from error


def over_steps(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda output, y: torch.stack([loss(step, y) for step in output]).mean()


def make_optimizer(args: argparse.Namespace, model: nn.Module) -> torch.optim.Optimizer:
    settings = {"lr": args.lr, "weight_decay": args.weight_decay}
    if args.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), **settings)
    return torch.optim.SGD(model.parameters(), momentum=args.momentum, **settings)


class LearningRate:
    """Factor on the learning rate at a step: up from 0 in a line, then down to 0 by a cosine."""

    def __init__(self, warmup: int, total: int) -> None:
        self.warmup, self.total = warmup, total

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / max(1, self.total - self.warmup)
        return (1 + math.cos(math.pi * min(1.0, progress))) / 2


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    # On a GPU some operations have no deterministic version, which is a warning and no error.
    torch.use_deterministic_algorithms(not torch.cuda.is_available(), warn_only=True)
