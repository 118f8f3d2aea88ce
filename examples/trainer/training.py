"""The training loop of train_cifar.py and train_dvs.py.

What sj_shortcut adds to it: the heads and the loss in building.py, one line an epoch in
to_the_end(), and one in finish() of state.py. The rest is what any training needs that must not
lose its work.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from spikingjelly.activation_based import functional
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sj_shortcut import shortcut_logits, shortcuts_enabled

from . import finite, processes, reports
from .building import Position, Run, build, seed_everything
from .errors import UserError
from .folder import claimed
from .loading import Data, make_loaders
from .processes import World
from .state import finish, restore, save
from .stopping import Stop

__all__ = ["train"]

T = TypeVar("T")


def train(args: argparse.Namespace, script: str, load: Callable[..., Data]) -> int:
    """Train as the flags say, and return the exit code."""
    world = processes.start(args.device)
    try:
        return _train(args, script, load, world)
    except (torch.distributed.DistError, RuntimeError) as error:
        # What gloo says when the other side of a connection is gone.
        if world.size == 1 or "onnection" not in str(error):
            raise
        raise UserError("another process has failed, which says why: all end here") from error
    finally:
        processes.stop()


def _train(args: argparse.Namespace, script: str, load: Callable[..., Data], world: World) -> int:
    seed_everything(args.seed)
    if args.load_only:
        load_only(args, world.first(lambda: load(args)), world)
        return 0
    with claimed(Path(args.out), args.resume is not None, world):
        data = world.first(lambda: load(args))
        run = build(args, script, world, data)
        if args.resume:
            restore(run)
        else:
            save(run)  # so that whatever happens, there is something to go on from
        return to_the_end(run)


def load_only(args: argparse.Namespace, data: Data, world: World) -> None:
    """How fast the training data come, from the second batch on: workers start with the first."""
    loaders = make_loaders(data, args, world)
    loaders.batches.start(0, 0)
    arrivals = []
    for x, _ in loaders.train:
        move(x, world)
        arrivals.append(time.perf_counter())
    seconds = arrivals[-1] - arrivals[0]
    if world.rank == 0 and seconds:
        images = (len(arrivals) - 1) * args.batch_size
        reports.say(f"{images / seconds:.0f} images/s without training, --workers {args.workers}")


def to_the_end(run: Run) -> int:
    """Train and test the epochs that are left, and write the results."""
    args = run.args
    with Stop(run.world) as stop, reports.Report(run) as report:
        while run.position.epoch < args.epochs:
            train_epoch(run, stop, report)
            tested = {} if stop.requested() else evaluate(run, stop)
            if stop.requested():
                return stopped(run, stop)
            row = summarize(run, tested) | report.spikes()
            report.gradients(due_for_gradients(run))
            if run.has_heads:
                run.criterion.schedule.step()
            best = row["test_accuracy"] > max(
                (earlier["test_accuracy"] for earlier in run.history), default=-1.0
            )
            run.history.append(row)
            run.position = Position(run.position.epoch + 1)
            save(run, best)
            report.epoch(row)
        finish(run)
        report.end()
    return 0


def train_epoch(run: Run, stop: Stop, report: reports.Report) -> None:
    """Train from where the run stands to the end of its epoch, or to where it is stopped."""
    args, world, at = run.args, run.world, run.position
    loader, batches = run.loaders.train, run.loaders.batches
    steps = len(batches)
    batches.start(at.epoch, at.batch)
    run.model.train()
    totals = Totals(at.totals if world.rank == 0 else dict.fromkeys(at.totals, 0.0))
    begin = time.perf_counter() - at.seconds
    for x, y in timed(loader, at) if at.batch < steps else ():
        train_step(run, move(x, world), move(y, world), totals)
        at.batch += 1
        if args.method == "evolutionary" and at.batch < steps:
            # The paper's λ falls at every step; the last one of an epoch is in to_the_end().
            run.criterion.schedule.step(at.epoch + at.batch / steps)
        report.step()
        stopping = stop.requested()
        due = args.checkpoint_every and (at.epoch * steps + at.batch) % args.checkpoint_every == 0
        if stopping or due:
            at.seconds, at.totals = time.perf_counter() - begin, totals.over(world)
            if not stopping:
                save(run)
            totals = Totals(at.totals if world.rank == 0 else dict.fromkeys(at.totals, 0.0))
        if stopping:
            return
    at.seconds, at.totals = time.perf_counter() - begin, totals.over(world)


def timed(loader: Iterable[T], at: Position) -> Iterator[T]:
    """The batches of a loader; the time it takes to get them is added up."""
    iterator, end = iter(loader), object()
    while True:
        begin = time.perf_counter()
        batch = next(iterator, end)
        at.waited += time.perf_counter() - begin
        if batch is end:
            return
        yield cast(T, batch)


def train_step(run: Run, x: Tensor, y: Tensor, totals: Totals) -> None:
    """Forward, backward and step, unless what came of it is not finite."""
    args = run.args
    undo = finite.Undo(run) if args.skip_nonfinite else None
    run.optimizer.zero_grad()
    step = Totals({})
    pairs = zip(x.chunk(args.accumulate), y.chunk(args.accumulate), strict=True)
    for i, (part_x, part_y) in enumerate(pairs, start=1):
        with gradients_shared(run, last=i == args.accumulate):
            with autocast(run):
                output = run.forward(part_x)
                loss = run.criterion(output if args.per_step else output.mean(0), part_y)
            run.scaler.scale(loss * (len(part_y) / len(y))).backward()
        parts = getattr(run.criterion, "parts", {"total": loss, "main": loss})
        step.add_losses(parts, len(part_y))
        step.add("train_correct", correct(output, part_y))
        functional.reset_net(run.model)
    if run.world.any(~finite.all_finite(run, step.sums["loss_total"])):
        if undo is None:
            finite.refuse(run, {k: v for k, v in step.sums.items() if k.startswith("loss_")})
        undo()
        run.position.skipped += 1
    else:
        if args.clip_grad:
            run.scaler.unscale_(run.optimizer)
            torch.nn.utils.clip_grad_norm_(run.model.parameters(), args.clip_grad)
        run.scaler.step(run.optimizer)
        run.scaler.update()
        finite.check_scale(run)
        totals.add_all(step)
    run.lr.step()


def gradients_shared(run: Run, last: bool) -> contextlib.AbstractContextManager[None]:
    """Several processes add up their gradients once a batch, with its last part."""
    if isinstance(run.forward, DistributedDataParallel) and not last:
        return run.forward.no_sync()
    return contextlib.nullcontext()


@torch.no_grad()
def evaluate(run: Run, stop: Stop) -> dict[str, float]:
    """Share of test samples that the model, and each head, gets right; empty if stopped."""
    run.model.eval()
    totals = Totals({})
    with shortcuts_enabled(run.model) if run.has_heads else contextlib.nullcontext():
        for x, y in run.loaders.test:
            if run.world.size == 1 and stop.requested():
                return {}
            x, y = move(x, run.world), move(y, run.world)
            with autocast(run):
                output = run.over_time(x)
            totals.add("test_accuracy", correct(output, y))
            if run.has_heads:
                for name, logits in shortcut_logits(run.model).items():
                    totals.add(f"head_accuracy_{name}", correct(logits[None], y))
            functional.reset_net(run.model)
        if run.sharded and run.loaders.one_batch_less:
            run.over_time(x)  # the other process waits for its weights
            functional.reset_net(run.model)
    return {k: v / len(run.data.test) for k, v in totals.over(run.world).items()}


class Totals:
    """Sums over an epoch, kept on the device so that no step waits for them."""

    def __init__(self, sums: dict[str, float]) -> None:
        self.sums: dict[str, Any] = dict(sums)

    def add(self, name: str, value: Any) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value

    def add_losses(self, parts: dict[str, Tensor], samples: int) -> None:
        self.add("samples", samples)
        for name, value in parts.items():
            self.add(f"loss_{name}", value.detach().double() * samples)

    def add_all(self, other: Totals) -> None:
        for name, value in other.sums.items():
            self.add(name, value)

    def over(self, world: World) -> dict[str, float]:
        values = torch.tensor([float(v) for v in self.sums.values()], dtype=torch.float64)
        return dict(zip(self.sums, world.sum(values).tolist(), strict=True))


def correct(output: Tensor, y: Tensor) -> Tensor:
    """How many samples the logits [T, N, K], averaged over time, get right."""
    return (output.detach().float().mean(0).argmax(1) == y).sum().double()


def summarize(run: Run, tested: dict[str, float]) -> dict[str, float]:
    """The row of metrics.csv for the epoch just trained and tested."""
    totals = run.position.totals
    if not totals:
        raise UserError(
            f"every step of epoch {run.position.epoch + 1} was left out by --skip-nonfinite: go on "
            f"with --resume {run.folder} and a lower --lr"
        )
    samples = totals["samples"]
    losses = {
        name.removeprefix("loss_") if name == "loss_total" else name: value / samples
        for name, value in totals.items()
        if name.startswith("loss_")
    }
    loss = losses.pop("total")
    return {
        "epoch": run.position.epoch + 1,
        "lambda": run.criterion.schedule.coefficient if run.has_heads else 0.0,
        "lr": run.optimizer.param_groups[0]["lr"],
        "loss": loss,
        **losses,
        "train_accuracy": totals["train_correct"] / samples,
        **tested,
        "seconds": run.position.seconds,
        "images_per_second": samples / run.position.seconds,
        "waiting": run.position.waited / run.position.seconds,
        **({"skipped_steps": run.position.skipped} if run.args.skip_nonfinite else {}),
    }


def move(x: Tensor, world: World) -> Tensor:
    return x.to(world.device, non_blocking=True)


def autocast(run: Run) -> torch.autocast:
    kind = torch.float16 if run.args.amp == "fp16" else torch.bfloat16
    return torch.autocast(run.world.device.type, kind, enabled=run.args.amp != "off")


def due_for_gradients(run: Run) -> bool:
    every = run.args.gradients_every
    return bool(every) and (run.position.epoch + 1) % every == 0


def stopped(run: Run, stop: Stop) -> int:
    save(run)
    at = run.position
    if run.world.rank == 0:
        script = shlex.quote(sys.argv[0])
        size = run.world.size
        start = "python" if size == 1 else f"torchrun --nproc-per-node {size}"
        reports.say(
            f"stopped in epoch {at.epoch + 1} after batch {at.batch} of "
            f"{len(run.loaders.batches)}, all saved; go on with: {start} {script} "
            f"--resume {shlex.quote(str(run.folder))}"
        )
    return 128 + (stop.signal or signal.SIGTERM)
