"""Do the paper's two claims hold on its own kind of network?

(1) vanilla < shortcuts < evolutionary training; (2) vanilla ResNet-34 is worse than vanilla
ResNet-18, and the method turns that round. Trains both on CIFAR-10 at 32 x 32 pixels, in narrow,
on one core; what a user would pick instead is beside them. What is already in the results folder
is not run again; figure and RESULTS.md are drawn from all of it.

    python -m analysis.paper                 all that is missing, hours: stop it when you like
    python -m analysis.paper --hours 1       start no training after an hour
    python -m analysis.paper --report        only draw figure and page from the tables
    python -m analysis.paper --repeat KEY    do a finished run again, and compare
    python -m analysis.paper --quick --out D everything in small, on digits, in a minute
    python -m analysis.paper --device cuda --minutes 10
                                             at full width and in mixed precision, on a card;
                                             --workers 6 fills one that waits for launches
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from analysis.common.tables import Tables, execute, write
from analysis.common.todo import missing_runs
from analysis.paper.figures import draw_all
from analysis.paper.plan import NAMES, Run, plan, quick_plan
from analysis.paper.report import write_page
from analysis.paper.run import FULL_WIDTH_TABLES, TABLES, train, train_at_full_width

__all__ = ["main"]

RESULTS = Path(__file__).resolve().parent / "results"


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    tables = Tables(args.out, TABLES, ["run"])
    full_width = Tables(args.out, FULL_WIDTH_TABLES, ["run"])
    if args.repeat:
        return repeat(args.repeat, tables)
    planned = quick_plan if args.quick else plan
    runs = planned()
    if not args.report:
        if args.device:
            wide = planned(args.width, amp=not args.no_amp)
            fill_full_width(wide, full_width, args)
        else:
            fill(runs, tables, args.workers, args.hours)
    if len(tables["runs"]) or len(full_width["full_width_runs"]):
        drawn_from = {**tables.tables, **full_width.tables}
        figures = draw_all(drawn_from, args.out)
        write(args.out / "RESULTS.md", write_page(drawn_from, figures, runs))
        print(f"figures and RESULTS.md are in {args.out}")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--hours", type=float, metavar="H", help="start no training after that many hours")
    add("--workers", type=int, default=1, help="processes at once (default 1)")
    add("--out", type=Path, default=RESULTS, help="folder of tables, figures and RESULTS.md")
    add("--report", action="store_true", help="train nothing; draw figures and page")
    add("--repeat", metavar="KEY", help="do the run of this key in runs.csv again")
    add("--quick", action="store_true", help="short trainings on digits; needs --out")
    add("--device", choices=["cuda", "cpu"], help="the plan at full width, in mixed precision")
    add("--minutes", type=float, metavar="M", help="with --device: start none that lasts longer")
    add("--no-amp", action="store_true", help="with --device: in single precision")
    add("--width", type=int, default=64, help="with --device: channels at first (default 64)")
    args = parser.parse_args(argv)
    narrow = args.device and args.width != 64
    if (args.quick or narrow) and args.out == RESULTS:
        flag = "--quick" if args.quick else "--width"
        parser.error(f"{flag} needs --out FOLDER, not to mix its runs with the study's")
    if args.device is None and (args.minutes is not None or args.width != 64 or args.no_amp):
        parser.error("--minutes, --no-amp and --width go with --device")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here")
    if args.workers < 1 or args.width < 1:
        parser.error("--workers and --width must be at least 1")
    return args


def fill(runs: Sequence[Run], tables: Tables, workers: int, hours: float | None) -> None:
    """Do what the table lacks and there is data for."""
    todo = missing_runs(runs, tables)
    execute(todo, train, tables, workers, lambda run: run.work, describe, hours)


def fill_full_width(runs: Sequence[Run], tables: Tables, args: argparse.Namespace) -> None:
    """The same on one device, as far as the minutes reach."""
    name = FULL_WIDTH_TABLES[-1]
    todo = missing_runs(runs, tables)
    hours = None if args.minutes is None else args.minutes / 60
    train_there = partial(train_at_full_width, args.device)
    execute(todo, train_there, tables, args.workers, lambda run: run.work, describe, hours, True)
    print(f"{len(tables[name])} runs are in {name}.csv")


def describe(run: Run, row: pd.DataFrame) -> str:
    name = NAMES["sew" if run.net == "sew" else run.method]
    return f"{run.depth} layers, {name}, lr {run.lr:g}: {row['val_accuracy'].iloc[0]:.1%}"


def repeat(key: str, tables: Tables) -> None:
    """Do a run again from its row, and say whether the same comes out."""
    runs = tables["runs"]
    if not len(runs) or key not in set(runs["run"]):
        sys.exit(f"there is no run {key!r} in runs.csv; its column 'run' has the keys")
    row = runs[runs["run"] == key].iloc[0]
    again = train(Run.of_row({str(name): value for name, value in row.items()}))["runs"].iloc[0]
    for name in ("val_accuracy", "test_accuracy", "firing_rate"):
        print(f"{name}: {row[name]:.4g} in the table, {again[name]:.4g} now")


if __name__ == "__main__":
    main()
