"""Which runs of a plan are still to be done."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol, TypeVar

from analysis.common.data import missing
from analysis.common.tables import Tables

__all__ = ["missing_runs"]


class Planned(Protocol):
    """A run of a study."""

    @property
    def data(self) -> str:
        """The data set."""

    @property
    def key(self) -> str:
        """Its name in every table."""


Run = TypeVar("Run", bound=Planned)


def missing_runs(runs: Sequence[Run], tables: Tables) -> list[Run]:
    """The runs that have data here and no row yet; prints how many, and which data are not here.

    Args:
        runs: Of the plan.
        tables: What is finished, by the key of the run.
    """
    for data in dict.fromkeys(run.data for run in runs):
        if reason := missing(data):
            print(reason, file=sys.stderr)
            runs = [run for run in runs if run.data != data]
    finished = tables.finished()
    todo = [run for run in runs if (run.key,) not in finished]
    print(f"{len(runs)} runs: {len(runs) - len(todo)} finished before, {len(todo)} to do")
    return todo
