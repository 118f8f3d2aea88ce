"""Where should heads look, and what does a price on spikes buy?

Trains the ablation's core settings without heads (at vanilla's best learning rate), with heads that
read spikes or the currents before them, over 1, 2 x 2 or 4 x 4 parts of the map, with and without
the price on spikes, three seeds each; then counts the synaptic operations of an inference. What is
already in the results folder is not run again; figure and RESULTS.md are drawn from all of it.

    python -m analysis.synops                 all that is missing, hours: stop it when you like
    python -m analysis.synops --hours 1       start no training after an hour
    python -m analysis.synops --report        only draw figure and page from the tables
    python -m analysis.synops --quick --out D everything in small, in half a minute
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.common.tables import Tables, execute, write
from analysis.common.todo import missing_runs
from analysis.synops.figures import draw_all
from analysis.synops.plan import Run, plan, quick_plan
from analysis.synops.report import method, write_page
from analysis.synops.run import TABLES, train

__all__ = ["main"]

RESULTS = Path(__file__).resolve().parent / "results"


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing, and draw figure and page."""
    args = arguments(argv)
    tables = Tables(args.out, TABLES, ["run"])
    if not args.report:
        runs = quick_plan() if args.quick else plan()
        fill(runs, tables, args.workers, args.hours)
    if len(tables["runs"]):
        figures = draw_all(tables.tables, args.out)
        write(args.out / "RESULTS.md", write_page(tables["runs"], figures, len(plan())))
        print(f"figures and RESULTS.md are in {args.out}")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.synops",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--hours", type=float, metavar="H", help="start no training after that many hours")
    add("--workers", type=int, default=1, help="processes of one thread each (default 1)")
    add("--out", type=Path, default=RESULTS, help="folder of tables, figures and RESULTS.md")
    add("--report", action="store_true", help="train nothing; draw figure and page")
    add("--quick", action="store_true", help="four short trainings on digits; needs --out")
    args = parser.parse_args(argv)
    if args.quick and args.out == RESULTS:
        parser.error("--quick needs --out FOLDER, not to mix its runs with the study's")
    if args.workers < 1:
        parser.error("--workers must be at least 1")
    return args


def fill(runs: Sequence[Run], tables: Tables, workers: int, hours: float | None) -> None:
    """Do what the table lacks and there is data for."""
    todo = missing_runs(runs, tables)
    execute(todo, train, tables, workers, lambda run: run.work, describe, hours)


def describe(run: Run, row: pd.DataFrame) -> str:
    """A finished run in a few words."""
    accuracy = row["val_accuracy"].iloc[0]
    return f"{run.data} {run.net} {run.depth}, {method(row.iloc[0])}: {accuracy:.1%}"


if __name__ == "__main__":
    main()
