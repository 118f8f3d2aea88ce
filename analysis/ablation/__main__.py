"""Do shortcuts help, where, and by how much? Which of the choices there are should be the default?

Trains plain and residual spiking networks on digits, Fashion-MNIST, N-MNIST and CIFAR-10, as they
are and with shortcuts of many kinds. What is already in the results folder is not run again;
figures and RESULTS.md are drawn from all of it.

    python -m analysis.ablation                 all that is missing, hours: stop it when you like
    python -m analysis.ablation --hours 1       start no training after an hour
    python -m analysis.ablation --report        only draw figures and page from the tables
    python -m analysis.ablation --repeat KEY    do a finished run again, and compare (on another
                                                CPU or PyTorch rows differ; means should not)
    python -m analysis.ablation --quick --out D everything in small, in under three minutes
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis.ablation.figures import draw_all
from analysis.ablation.plan import HOLD, RATIO, VANILLA, cross, plan, setting
from analysis.ablation.report import write_page
from analysis.ablation.run import Run, train
from analysis.ablation.statistics import labelled
from analysis.common.tables import Tables, execute, write
from analysis.common.todo import missing_runs

__all__ = ["main"]

RESULTS = Path(__file__).resolve().parent / "results"
TABLES = ("history", "heads", "gradients", "firing", "runs")


def quick() -> list[Run]:
    small = replace(setting("digits", "plain", 6, "atan"), epochs=2)
    methods = (VANILLA, HOLD, RATIO, {**HOLD, "at": "every:3"})
    return list(cross([small], methods, seeds=[0, 1]))


def planned(args: argparse.Namespace) -> list[Run]:
    """All runs, whatever there is data for here."""
    return quick() if args.quick else plan()


def chosen(args: argparse.Namespace) -> list[Run]:
    """The runs that the flags ask for."""
    return [run for run in planned(args) if run.data in args.data]


def describe(run: Run, row: pd.DataFrame) -> str:
    return f"{run.data} {run.net} {run.depth} {run.surrogate} {run.at} {run.schedule}: " + (
        f"{row['val_accuracy'].iloc[0]:.1%}"
    )


def repeat(key: str, tables: Tables) -> None:
    """Do a run again from its row, and say whether the same comes out."""
    runs = tables["runs"]
    if not len(runs) or key not in set(runs["run"]):
        sys.exit(f"there is no run {key!r} in runs.csv; its column 'run' has the keys")
    row = runs[runs["run"] == key].iloc[0]
    again = train(Run.of_row({str(name): value for name, value in row.items()}))["runs"].iloc[0]
    compared = ("val_accuracy", "test_accuracy", "firing_rate")
    for name in compared:
        print(f"{name}: {row[name]:.4g} in the table, {again[name]:.4g} now")
    if any(f"{row[name]:.4g}" != f"{again[name]:.4g}" for name in compared):
        print(
            "Not the same: with another CPU or PyTorch rounding differs, and where a network "
            "hardly trains, the same seed was seen to end 10 to 30 points apart. Compare means "
            "over seeds."
        )


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    known = ("digits", "fashion", "nmnist", "cifar10")
    parser = argparse.ArgumentParser(
        prog="python -m analysis.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", nargs="+", default=list(known), choices=known, help="only these data sets")
    add("--hours", type=float, metavar="H", help="start no training after that many hours")
    add("--workers", type=int, default=2, help="processes of one thread each (default 2)")
    add("--out", type=Path, default=RESULTS, help="folder of tables, figures and RESULTS.md")
    add("--report", action="store_true", help="train nothing; draw figures and page")
    add("--repeat", metavar="KEY", help="do one run of runs.csv again, by its key")
    add("--quick", action="store_true", help="eight short trainings on digits; needs --out")
    args = parser.parse_args(argv)
    if args.quick and args.out == RESULTS:
        parser.error("--quick needs --out FOLDER, not to mix its runs with the study's")
    if args.workers < 1:
        parser.error("--workers must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    tables = Tables(args.out, TABLES, ["run"])
    if args.repeat:
        return repeat(args.repeat, tables)
    if not args.report:
        todo = missing_runs(chosen(args), tables)
        execute(todo, train, tables, args.workers, lambda run: run.work, describe, args.hours)
    if len(tables["runs"]):
        drawn_from = {**tables.tables, "runs": labelled(tables["runs"])}
        figures = draw_all(drawn_from, args.out)
        write(args.out / "RESULTS.md", write_page(drawn_from, figures, planned(args)))
        print(f"figures and RESULTS.md are in {args.out}")


if __name__ == "__main__":
    main()
