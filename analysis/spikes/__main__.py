"""Does the price on spikes bring synaptic operations down, and at what accuracy?

Trains plain networks of 6 and 12 layers on digits for 8 epochs, with and without shortcut heads,
with and without the price, each as it is by default. A first look at two seeds: it proves nothing
about other data and depths.

    python -m analysis.spikes                    what is missing, in minutes
    python -m analysis.spikes --quick --out D    in small
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pandas as pd

from analysis.common.tables import Tables
from analysis.spikes.run import Run, plan, quick, train

__all__ = ["main", "summary"]

RESULTS = Path(__file__).resolve().parent / "results"
KEYS = [field.name for field in fields(Run)]


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, and SynOps against those of vanilla at the same depth."""
    ways = ["depth", "heads", "price"]
    table = runs.groupby(ways)[["val_accuracy", "test_accuracy", "synops", "silent"]].mean()
    vanilla = table.xs((False, False), level=("heads", "price"))["synops"]
    table["synops_to_vanilla"] = table["synops"] / vanilla.reindex(table.index, level="depth")
    return table.reset_index()


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is missing and print the means."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.spikes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one seed and depth, one epoch")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the tables")
    args = parser.parse_args(argv)
    if args.quick and args.out == RESULTS:
        parser.error("--quick needs a folder of its own: --out FOLDER")
    tables = Tables(args.out, ("layers", "runs"), KEYS)
    for run in quick() if args.quick else plan():
        if tuple(vars(run).values()) not in tables.finished():
            rows = train(run)
            tables.add(rows)
            print(rows["runs"].to_string(header=False), file=sys.stderr, flush=True)
    written = pd.read_csv(args.out / "runs.csv")  # as rounded there
    print(summary(written).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
