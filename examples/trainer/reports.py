"""What a run shows and leaves in its folder, besides its checkpoints."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from sj_shortcut import (
    gradient_flow,
    plot_gradient_flow,
    plot_history,
    plot_spikes,
    shortcut_parameters,
)

from . import checkpoint
from .errors import UserError
from .folder import write_atomically, write_text
from .spikes import count_spikes, first_and_last, sums

if TYPE_CHECKING:
    from .building import Run

__all__ = ["Report", "say"]

PACKAGES = ("sj_shortcut", "spikingjelly", "torch", "torchvision", "numpy")
REMEDY = "make room or mend the folder, then go on with --resume {}"


class Report:
    """Progress on the screen; config.json, metrics.csv, TensorBoard events and curves."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.main = run.world.rank == 0
        self.board: Any = None
        self.bar: Any = None

    def __enter__(self) -> Report:
        if not self.main:
            return self
        run = self.run
        write_config(run)
        describe(run)
        if run.history:
            write_metrics(run)
        self.board = open_board(run.folder, run.position.epoch)
        steps = len(run.loaders.batches)
        self.bar = tqdm(
            total=run.args.epochs * steps,
            initial=run.position.epoch * steps + run.position.batch,
            unit="batch",
            dynamic_ncols=True,
            disable=None,  # no bar where the output goes to a file
        )
        return self

    def __exit__(self, *error: Any) -> None:
        if self.main:
            self.bar.close()
            self.board.close()

    def step(self) -> None:
        if self.main:
            self.bar.update()

    def epoch(self, row: dict[str, float]) -> None:
        if not self.main:
            return
        write_metrics(self.run)
        for name, value in row.items():
            if name != "epoch":
                self.board.add_scalar(name.replace(".", "/"), value, row["epoch"])
        self.board.flush()
        say(
            f"epoch {row['epoch']}/{self.run.args.epochs}  λ {row['lambda']:.3f}  "
            f"{losses(row)}  train {row['train_accuracy']:.2%}  "
            f"test {row['test_accuracy']:.2%}  {row['seconds']:.1f} s  "
            f"{row['images_per_second']:.0f} images/s{left_out(row)}"
        )

    def spikes(self) -> dict[str, float]:
        """Count spikes of every layer, and return their sums; none where weights are sharded."""
        run = self.run
        if not self.main or run.sharded:
            return {}
        frame = count_spikes(run)
        path = run.folder / "spikes.csv"
        write_frame(first_and_last(frame, path), path, run)
        return sums(frame)

    def gradients(self, due: bool) -> None:
        """Measure the gradient of every layer on a batch of test samples, the same each time."""
        if not due:
            return
        run = self.run
        x, y = next(iter(run.loaders.test))
        over_time = run.over_time
        frame = gradient_flow(
            run.model,
            run.criterion,
            (x, y),
            forward=lambda model, x: over_time(x) if run.args.per_step else over_time(x).mean(0),
            epoch=run.position.epoch + 1,
        )
        if self.main:
            path = run.folder / "gradients" / f"epoch-{run.position.epoch + 1:04d}.csv"
            write_frame(frame, path, run)

    def end(self) -> None:
        """Draw the curves and print the table of results."""
        if not self.main:
            return
        self.bar.close()
        run = self.run
        remedy = REMEDY.format(run.folder)
        for name, figure in figures(run).items():
            save = partial(figure.savefig, dpi=200)
            write_atomically(run.folder / name, save, remedy)
        say(summary(run))


def losses(row: dict[str, float]) -> str:
    """The loss of the output, and apart from it the sum over heads, which is larger by nature."""
    main, total = row["loss_main"], row["loss"]
    price = row.get("loss_price")
    more = total - (price or 0.0)
    parts = [f"{more:.4f} with heads"] if not math.isclose(more, main, rel_tol=1e-6) else []
    parts += [] if price is None else [f"price {price:.4f}"]
    return f"loss {main:.4f}" + (f" ({', '.join(parts)})" if parts else "")


def left_out(row: dict[str, float]) -> str:
    """How many steps --skip-nonfinite took out of an epoch, in words."""
    number = int(row.get("skipped_steps", 0))
    return f"  {number} step{'s' * (number > 1)} left out, not finite" if number else ""


def write_frame(frame: pd.DataFrame, path: Path, run: Run) -> None:
    write_text(path, frame.to_csv(index=False), REMEDY.format(run.folder))


def write_metrics(run: Run) -> None:
    """Write metrics.csv anew: its rows are in the checkpoint, so none is lost or doubled."""
    frame = pd.DataFrame(run.history)
    # Parts of the loss whose weight is 0 are not computed: empty cells.
    write_frame(frame, run.folder / "metrics.csv", run)


def write_config(run: Run) -> None:
    config = {
        "script": run.script,
        **run.settings,
        "resume": run.args.resume,
        "changes": run.changes,
        "processes": run.world.size,
        "device_used": str(run.world.device),
        "train_samples": len(run.data.train),
        "test_samples": len(run.data.test),
        "classes": run.data.classes,
        "split": run.data.split,
        "heads": run.heads,
        "versions": {"python": platform.python_version(), **versions()},
    }
    remedy = REMEDY.format(run.folder)
    contents = {"config.json": config}
    if run.data.split_files:
        contents["split.json"] = run.data.split_files
    for name, content in contents.items():
        write_text(run.folder / name, to_json(content), remedy)


def to_json(content: Any) -> str:
    """Readable JSON; escaped where a path holds bytes that are no UTF-8."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(content, indent=1)
    return text


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def say(text: str) -> None:
    """Print a line above the progress bar, at once."""
    tqdm.write(text)
    sys.stdout.flush()  # else a log in a file stays empty until the end


def describe(run: Run) -> None:
    args = run.args
    backends = sorted({row.backend for row in run.backends})
    added = sum(p.numel() for p in shortcut_parameters(run.model)) if run.has_heads else 0
    weights = sum(p.numel() for p in run.model.parameters()) - added
    say(f"data    {run.data.split}")
    say(
        f"model   {args.model}, {weights:,} parameters, T = {args.T}, step mode {args.step_mode}, "
        f"neurons on {', '.join(backends)}"
    )
    if run.has_heads:
        number = f"{len(run.heads)} head{'s' * (len(run.heads) > 1)}"
        say(
            f"method  {args.method}, {number} at {', '.join(run.heads)}: {added:,} parameters more "
            f"({added / weights:.1%}) while training"
        )
    else:
        say("method  vanilla, no heads")
    if run.price is not None:
        say(f"price   on spikes beyond {args.price:g} x the untrained rate of each layer")
    if run.has_heads and args.combine == "logits" and run.criterion.schedule(args.epochs - 1) > 0:
        say(
            "warning: λ is not 0 in the last epoch, so with --combine logits the model without "
            "heads is not quite the one trained: see --finish and --lambda-end"
        )
    parts = ", in each a part of the weights" if run.sharded else ""
    say(f"device  {run.world.device}, {run.world.size} process(es){parts}; results in {run.folder}")


def open_board(folder: Path, epochs_done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("the curves go to TensorBoard: pip install tensorboard") from error
    path = folder / "tensorboard"
    path.mkdir(exist_ok=True)
    if os.fsencode(path) != str(path).encode(errors="replace"):
        # TensorBoard knows UTF-8 only; Linux, where other names occur, has a second one for it.
        path = Path(f"/proc/self/fd/{os.open(path, os.O_RDONLY)}")
    return SummaryWriter(str(path), purge_step=epochs_done + 1)


def figures(run: Run) -> dict[str, Figure]:
    """Curves of the run, its spikes, and its gradients if they were measured."""
    curves = plot_history(long_history(run), y=("loss", "accuracy", "λ"))
    drawn = {"curves.png": figure_of(curves)}
    files = sorted((run.folder / "gradients").glob("epoch-*.csv"))
    if files:
        frame = pd.concat(pd.read_csv(file) for file in files)
        frame["run"] = "epoch " + frame["epoch"].astype(str)
        drawn["gradients.png"] = figure_of(plot_gradient_flow(frame))
    if (run.folder / "spikes.csv").exists():
        frame = pd.read_csv(run.folder / "spikes.csv")
        frame["run"] = "epoch " + frame["epoch"].astype(str)
        drawn["spikes.png"] = figure_of(plot_spikes(frame))
    return drawn


def figure_of(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def long_history(run: Run) -> pd.DataFrame:
    """One row an epoch and curve, as plot_history takes it."""
    rows = []
    for row in run.history:
        epoch = row["epoch"]
        rows.append(
            {"run": "training", "epoch": epoch, "loss": row["loss_main"], "λ": row["lambda"],
             "accuracy": row["train_accuracy"]}
        )  # fmt: skip
        rows.append({"run": "test", "epoch": epoch, "accuracy": row["test_accuracy"]})
        for name in run.heads:
            rows.append(
                {"run": f"head {name}", "epoch": epoch, "loss": row.get(f"loss_{name}"),
                 "accuracy": row[f"head_accuracy_{name}"]}
            )  # fmt: skip
    return pd.DataFrame(rows)


def summary(run: Run) -> str:
    """The table at the end."""
    history = run.history
    best = max(history, key=lambda row: row["test_accuracy"])
    rows = [("last epoch", history[-1])]
    if best is not history[-1]:
        rows.append(("best on test", best))
    table = pd.DataFrame(
        {
            "epoch": row["epoch"],
            "loss": f"{row['loss_main']:.4f}",
            "train": f"{row['train_accuracy']:.2%}",
            "test": f"{row['test_accuracy']:.2%}",
            **{f"head {n}": f"{row[f'head_accuracy_{n}']:.2%}" for n in run.heads},
        }
        for _, row in rows
    )
    table.index = pd.Index([name for name, _ in rows])
    seconds = sum(row["seconds"] for row in history)
    return (
        f"\n{table.to_string()}\n\n{seconds:.0f} s of training; the trained model without heads is "
        f"{run.folder / 'model.pt'}, the best one on test data {run.folder / checkpoint.BEST}"
    )
