"""The training loop of train_cifar.py and train_dvs.py.

What sj_shortcut adds to it: the heads and the loss in building.py, one line an epoch in _train(),
and one in finish(). The rest is what any training needs that must not lose its work.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import functional
from torch import Tensor

from sj_shortcut import remove_shortcuts, shortcut_logits, shortcuts_enabled

from . import checkpoint, processes, reports
from .building import Position, Run, build, seed_everything
from .errors import UserError, one_line
from .loading import Data
from .processes import World

__all__ = ["train"]


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
    world.alone(lambda: check_folder(args))
    data = world.first(lambda: load(args))
    run = build(args, script, world, data)
    if args.resume:
        restore(run)
    with Stop(world) as stop, reports.Report(run) as report:
        if not args.resume:
            save(run)  # so that whatever happens, there is something to go on from
        while run.position.epoch < args.epochs:
            train_epoch(run, stop, report)
            tested = {} if stop.requested() else evaluate(run, stop)
            if stop.requested():
                return stopped(run, stop)
            row = summarize(run, tested)
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


def check_folder(args: argparse.Namespace) -> None:
    folder = Path(args.out)
    if not args.resume and (folder / checkpoint.LAST).exists():
        raise UserError(
            f"{folder} already holds a run: go on with it by --resume {folder}, or choose another "
            "folder by --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.clear_leftovers(folder)
    except OSError as error:
        raise UserError(f"--out {folder}: {one_line(error)}") from error


def train_epoch(run: Run, stop: Stop, report: reports.Report) -> None:
    """Train from where the run stands to the end of its epoch, or to where it is stopped."""
    args, world, at = run.args, run.world, run.position
    loader, batches, _ = run.loaders
    steps = len(batches)
    batches.start(at.epoch, at.batch)
    run.model.train()
    totals = Totals(at.totals if world.rank == 0 else dict.fromkeys(at.totals, 0.0))
    begin = time.perf_counter() - at.seconds
    for x, y in loader if at.batch < steps else ():
        x, y = move(x, world), move(y, world)
        run.optimizer.zero_grad()
        with autocast(run):
            output = run.forward(x)
            loss = run.criterion(output if args.per_step else output.mean(0), y)
        run.scaler.scale(loss).backward()
        if args.clip_grad:
            run.scaler.unscale_(run.optimizer)
            torch.nn.utils.clip_grad_norm_(run.model.parameters(), args.clip_grad)
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.lr.step()
        functional.reset_net(run.model)

        parts = run.criterion.parts if run.has_heads else {"total": loss, "main": loss}
        totals.add_losses(parts, len(y))
        totals.add("train_correct", correct(output, y))
        at.batch += 1
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
    if run.world.size > 1 and len(run.data.test) < run.world.size:
        raise UserError(f"{len(run.data.test)} test samples are too few for so many processes")
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

    def over(self, world: World) -> dict[str, float]:
        values = torch.tensor([float(v) for v in self.sums.values()], dtype=torch.float64)
        return dict(zip(self.sums, world.sum(values).tolist(), strict=True))


def correct(output: Tensor, y: Tensor) -> Tensor:
    """How many samples the logits [T, N, K], averaged over time, get right."""
    return (output.detach().float().mean(0).argmax(1) == y).sum().double()


def summarize(run: Run, tested: dict[str, float]) -> dict[str, float]:
    """The row of metrics.csv for the epoch just trained and tested."""
    totals = run.position.totals
    samples = totals["samples"]
    losses = {
        name.removeprefix("loss_") if name == "loss_total" else name: value / samples
        for name, value in totals.items()
        if name.startswith("loss_")
    }
    loss = losses.pop("total")
    if not np.isfinite(loss):
        raise UserError(
            f"the loss is {loss} in epoch {run.position.epoch + 1}: lower --lr, or warm up by "
            "--warmup-epochs"
        )
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
    }


def move(x: Tensor, world: World) -> Tensor:
    return x.to(world.device, non_blocking=True)


def autocast(run: Run) -> torch.autocast:
    kind = torch.float16 if run.args.amp == "fp16" else torch.bfloat16
    return torch.autocast(run.world.device.type, kind, enabled=run.args.amp != "off")


def due_for_gradients(run: Run) -> bool:
    every = run.args.gradients_every
    return bool(every) and (run.position.epoch + 1) % every == 0


class Stop:
    """Turns the first SIGTERM or Ctrl-C into a question the loop asks; a second one kills."""

    def __init__(self, world: World) -> None:
        self.world, self.signal = world, 0

    def __enter__(self) -> Stop:
        self.before = {s: signal.signal(s, self.note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: Any) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)

    def requested(self) -> bool:
        """Whether this or any other process is asked to stop; all of them must ask."""
        if self.world.size == 1:
            return self.signal != 0
        return bool(self.world.sum(torch.tensor(float(self.signal != 0))) > 0)


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


def save(run: Run, best: bool = False) -> None:
    """Write last.pt, from process 0, with what all processes have to say."""
    rng = run.world.gather(checkpoint.rng_state())
    schedule = None
    if run.has_heads:
        schedule = checkpoint.merge(run.world.gather(run.criterion.schedule.state_dict()))
    run.world.alone(lambda: checkpoint.save(run.folder, state_of(run, rng, schedule), best))


def state_of(
    run: Run, rng: list[dict[str, Any]], schedule: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "script": run.script,
        "settings": {k: v for k, v in vars(run.args).items() if k not in ("resume", "debug")},
        "data": {"classes": run.data.classes, "train": len(run.data.train)},
        "position": vars(run.position),
        "history": run.history,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "lr": {k: v for k, v in run.lr.state_dict().items() if k != "lr_lambdas"},
        "schedule": schedule,
        "scaler": run.scaler.state_dict(),
        "rng": rng,
    }


def restore(run: Run) -> None:
    """Put everything back to where the checkpoint was written."""
    path = checkpoint.find(run.args.resume)
    state = checkpoint.load(path)
    if state["data"] != {"classes": run.data.classes, "train": len(run.data.train)}:
        raise UserError(
            f"{path} was trained on {state['data']['train']} samples of "
            f"{len(state['data']['classes'])} classes, but {run.args.data_dir} now has "
            f"{len(run.data.train)} of {len(run.data.classes)}, or others: restore the data"
        )
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.lr.load_state_dict({**state["lr"], "lr_lambdas": [None]})
    if run.has_heads:
        schedule = checkpoint.share(state["schedule"], run.world.rank)
        run.criterion.schedule.load_state_dict(schedule)
    run.scaler.load_state_dict(state["scaler"])
    run.position = Position(**state["position"])
    run.history = state["history"]
    rng = state["rng"]
    if run.world.rank < len(rng):
        checkpoint.set_rng_state(rng[run.world.rank])
    if run.world.rank == 0 and len(rng) != run.world.size:
        reports.say(
            f"note: started with {len(rng)} processes, going on with {run.world.size}: the same "
            "global batches, so the same results up to rounding, but for dropout"
        )


def finish(run: Run) -> None:
    """Take the heads out and write the plain model's weights."""
    if run.has_heads:
        remove_shortcuts(run.model)
    weights = {k: v.cpu() for k, v in run.model.state_dict().items()}
    path = run.folder / "model.pt"
    remedy = f"make room or mend the folder, then --resume {run.folder}"
    run.world.alone(
        lambda: checkpoint.write_atomically(path, lambda file: torch.save(weights, file), remedy)
    )
