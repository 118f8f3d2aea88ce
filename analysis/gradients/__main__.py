"""Does the paper's Fig. 2 come out: are the first layer's gradients flatter with shortcuts?

Trains a narrow spiking ResNet-34 for a few hundred steps with and without shortcuts, on one core
and in some ten minutes, and counts the gradients of its first layer before and after. What is
already in the results folder is not run again.

    python -m analysis.gradients                  all that is missing
    python -m analysis.gradients --report         only draw figure and page from the tables
    python -m analysis.gradients --quick --out D  everything in small, on digits, in seconds
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.common.tables import Tables, execute, write
from analysis.common.todo import missing_runs
from analysis.gradients.figures import draw_all
from analysis.gradients.plan import METHODS, SURROGATES, Run, plan, quick_plan
from analysis.gradients.report import write_page
from analysis.gradients.run import train

__all__ = ["main"]

RESULTS = Path(__file__).resolve().parent / "results"


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    tables = read(args.out)
    planned = quick_plan() if args.quick else plan()
    if not args.report:
        todo = missing_runs(planned, tables)
        execute(todo, train, tables, args.workers, lambda run: run.work, describe, args.hours)
        tables = read(args.out)  # rounded, so that page and figure are those of the files
    if len(tables["runs"]):
        figures = draw_all(tables.tables, args.out)
        write(args.out / "RESULTS.md", write_page(tables.tables, figures, planned))
        print(f"figure and RESULTS.md are in {args.out}")


def read(folder: Path) -> Tables:
    return Tables(folder, ("bins", "runs"), ["run"])


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.gradients",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--hours", type=float, metavar="H", help="start no training after that many hours")
    add("--workers", type=int, default=1, help="processes of one thread each (default 1)")
    add("--out", type=Path, default=RESULTS, help="folder of tables, figure and RESULTS.md")
    add("--report", action="store_true", help="train nothing; draw figure and page")
    add("--quick", action="store_true", help="a few steps on digits; needs --out")
    args = parser.parse_args(argv)
    if args.quick and args.out == RESULTS:
        parser.error("--quick needs --out FOLDER, not to mix its runs with the study's")
    if args.workers < 1:
        parser.error("--workers must be at least 1")
    return args


def describe(run: Run, row: pd.DataFrame) -> str:
    name = f"{SURROGATES[run.surrogate]}, {METHODS[run.method]}"
    return f"{name}: loss {row['loss'].iloc[0]:.2f}"


if __name__ == "__main__":
    main()
