"""Tables of a study that grow run by run, and the processes that fill them."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from filelock import FileLock
from tqdm import tqdm

__all__ = ["Tables", "execute", "write"]

Run = TypeVar("Run", bound=Hashable)
Train = Callable[[Run], dict[str, pd.DataFrame]]
Finished = tuple[Run, dict[str, pd.DataFrame]]


class Tables:
    """The CSV files of a folder: one row in the last of them for each finished run.

    Args:
        folder: Where they lie; made if need be.
        names: Of the tables. The last one is written last: its row says that a run is all there.
        keys: The columns that tell a run, in every table.
    """

    def __init__(self, folder: Path, names: Sequence[str], keys: Sequence[str]) -> None:
        self.folder = folder
        self.names = tuple(names)
        self.keys = list(keys)
        folder.mkdir(parents=True, exist_ok=True)
        self.tables: dict[str, pd.DataFrame] = {}
        self._load()

    def __getitem__(self, name: str) -> pd.DataFrame:
        return self.tables[name]

    def finished(self) -> set[tuple[Any, ...]]:
        """The values of ``keys`` of every finished run."""
        table = self.tables[self.names[-1]]
        return set(self._keys_of(table)) if len(table) else set()

    def add(self, rows: dict[str, pd.DataFrame]) -> None:
        """Take the rows of one run, and have them on the disk before returning.

        Rows that another process has written meanwhile stay.
        """
        with FileLock(self.folder / ".lock"):
            self._load()
            for name in self.names:
                if name not in rows:
                    continue
                parts = [part for part in (self.tables[name], rows[name]) if len(part)]
                table = pd.concat(parts).sort_values(self.keys, kind="stable")
                path = self.folder / f"{name}.csv"
                write(path, table.to_csv(index=False, float_format="%.4g", lineterminator="\n"))
            self._load()  # as it was written, rounded

    def _load(self) -> None:
        """Read what is on the disk, but for rows of runs that are not all there."""
        self.tables = {name: self._read(name) for name in self.names}
        finished = self.finished()
        for name, table in self.tables.items():
            if len(table):
                self.tables[name] = table[[key in finished for key in self._keys_of(table)]]

    def _keys_of(self, table: pd.DataFrame) -> list[tuple[Any, ...]]:
        return list(table[self.keys].itertuples(index=False, name=None))

    def _read(self, name: str) -> pd.DataFrame:
        path = self.folder / f"{name}.csv"
        return pd.read_csv(path) if path.exists() else pd.DataFrame()


def write(path: Path, text: str) -> None:
    """Replace a file in one go: whenever it is interrupted, the file is whole."""
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(text, encoding="utf-8", newline="\n")
    os.replace(unfinished, path)


def execute(
    todo: Sequence[Run],
    train: Train[Run],
    tables: Tables,
    workers: int,
    work: Callable[[Run], float],
    describe: Callable[[Run, pd.DataFrame], str],
    hours: float | None = None,
    whole: bool = False,
) -> None:
    """Do the runs in processes of one thread each, the first ones first.

    Args:
        todo: What to run.
        train: Does one run and returns its rows by table; a module-level function.
        tables: Where the rows go as soon as a run is finished.
        workers: Number of processes; 1 is this one.
        work: Cost of a run in any unit, by which progress is counted.
        describe: What the progress bar says of a finished run, given its row.
        hours: After these, no further run is started.
        whole: Nor one that would not be finished by then, by the pace so far.
    """
    if not todo:
        return
    end = math.inf if hours is None else time.monotonic() + 3600 * hours
    bar = tqdm(total=sum(map(work, todo)), unit="layer·epoch", dynamic_ncols=True)
    bar.set_postfix_str("the first run is under way")
    pace = _Pace(workers) if whole else None
    waiting = _in_time(todo, work, end, pace)
    # One process needs no other, which would outlive it if it were killed.
    finished = _here(waiting, train) if workers == 1 else _in_processes(waiting, train, workers)
    with closing(bar), closing(finished):
        for run, rows in finished:
            tables.add(rows)
            if pace is not None:
                pace.finished += work(run)
            bar.update(work(run))
            bar.set_postfix_str(describe(run, rows[tables.names[-1]]))


class _Pace:
    """How long a unit of work takes a process, by what is finished; nothing before that."""

    def __init__(self, workers: int) -> None:
        self.workers, self.finished, self.began = workers, 0.0, time.monotonic()

    def seconds(self) -> float:
        elapsed = time.monotonic() - self.began
        return self.workers * elapsed / self.finished if self.finished else 0.0


def _in_time(
    todo: Iterable[Run], work: Callable[[Run], float], end: float, pace: _Pace | None
) -> Iterator[Run]:
    """The runs until it is too late for another; the first is never too late."""
    for i, run in enumerate(todo):
        expected = work(run) * pace.seconds() if pace else 0.0
        if i and time.monotonic() + expected >= end:
            return
        yield run


def _here(waiting: Iterable[Run], train: Train[Run]) -> Generator[Finished[Run], None, None]:
    for run in waiting:
        yield run, train(run)


def _in_processes(
    waiting: Iterator[Run], train: Train[Run], workers: int
) -> Generator[Finished[Run], None, None]:
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        pending = {pool.submit(train, run): run for run in islice(waiting, workers)}
        while pending:
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                pending |= {pool.submit(train, run): run for run in islice(waiting, 1)}
                yield pending.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)
