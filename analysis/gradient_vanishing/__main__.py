"""Where does the gradient die, and do shortcuts bring it back?

Trains plain and residual spiking networks of 6 to 48 layers with three surrogate functions, with
and without shortcut heads, and measures each layer's gradient before, during and after. What is
already in the results folder is not run again; figures and RESULTS.md are drawn from all of it.

    python -m analysis.gradient_vanishing                  digits, from scikit-learn
    python -m analysis.gradient_vanishing --data all       with CIFAR-10 and N-MNIST: as committed
    python -m analysis.gradient_vanishing --quick --out D  everything in small, in under a minute
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import pandas as pd

from analysis.common.data import missing
from analysis.common.tables import Tables, execute, write
from analysis.gradient_vanishing.figures import draw_all
from analysis.gradient_vanishing.plan import DEPTHS, NETS, SURROGATES, plan
from analysis.gradient_vanishing.report import write_page
from analysis.gradient_vanishing.run import KEYS, Run, train

__all__ = ["main"]

RESULTS = Path(__file__).resolve().parent / "results"


def open_tables(folder: Path) -> Tables:
    return Tables(folder, ("gradients", "sources", "history", "runs"), KEYS)


def describe(run: Run, row: pd.DataFrame) -> str:
    accuracy = row["accuracy"].iloc[0]
    return f"{run.data} {run.net} {run.size} {run.surrogate} {run.method}: {accuracy:.1%}"


def execute_missing(runs: Sequence[Run], tables: Tables, workers: int) -> None:
    finished = tables.finished()
    todo = [run for run in runs if astuple(run) not in finished]
    print(f"{len(runs)} runs: {len(runs) - len(todo)} finished before, {len(todo)} to do")
    execute(todo, train, tables, workers, lambda run: run.work, describe)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    known = ("digits", "cifar10", "nmnist")
    parser = argparse.ArgumentParser(
        prog="python -m analysis.gradient_vanishing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", nargs="+", default=["digits"], choices=[*known, "all"], help="data sets")
    add("--nets", nargs="+", default=list(NETS), choices=NETS)
    add("--depths", nargs="+", type=int, default=list(DEPTHS), metavar="D", help="even, from 6")
    add("--surrogates", nargs="+", default=list(SURROGATES), choices=SURROGATES)
    add("--seeds", nargs="+", type=int, default=[0, 1], metavar="S")
    add("--epochs", type=int, default=8)
    add("--workers", type=int, default=2, help="processes of one thread each (default 2)")
    add("--out", type=Path, default=RESULTS, help="folder of tables, figures and RESULTS.md")
    add("--report", action="store_true", help="train nothing; draw figures and page")
    add("--quick", action="store_true", help="two depths, one surrogate, one epoch; needs --out")
    args = parser.parse_args(argv)
    if args.quick:
        if args.out == RESULTS:
            parser.error("--quick needs --out FOLDER, not to mix its runs with the study's")
        args.nets, args.depths, args.surrogates = ["plain"], [6, 8], ["atan"]
        args.seeds, args.epochs = args.seeds[:1], 1
    if any(depth < 6 or depth % 2 for depth in args.depths):
        parser.error("--depths must be even numbers of at least 6")
    if args.epochs < 1 or args.workers < 1:
        parser.error("--epochs and --workers must be at least 1")
    args.data = list(known) if "all" in args.data else args.data
    for data in list(args.data):
        if reason := missing(data):
            print(reason, file=sys.stderr)
            args.data.remove(data)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    tables = open_tables(args.out)
    if not args.report:
        execute_missing(plan(args), tables, args.workers)
    if len(tables["runs"]):
        command = "python -m analysis.gradient_vanishing --data all"
        made_by = f"All of it is made by `{command}`." if args.out == RESULTS else ""
        figures = draw_all(tables.tables, args.out)
        write(args.out / "RESULTS.md", write_page(tables.tables, figures, made_by))
        print(f"figures and RESULTS.md are in {args.out}")


if __name__ == "__main__":
    main()
