"""What shortcut heads cost: time and memory of a training step with them, to one without.

Networks of SpikingJelly take training steps (forward pass, loss, backward pass) with and without
heads in turn, in one process of one thread. What is in the results folder already is not measured
again; figure and RESULTS.md are drawn from all of it.

    python -m analysis.overhead                 everything, as committed: about an hour
    python -m analysis.overhead --device cuda
    python -m analysis.overhead --only depth    one question
    python -m analysis.overhead --quick --out D   all questions in small, in seconds
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from analysis.overhead.attempts import attempt_all
from analysis.overhead.cases import Case, all_cases, measure, quick_cases
from analysis.overhead.figure import draw
from analysis.overhead.nets import MODELS
from analysis.overhead.report import write_page

__all__ = ["main"]

RESULTS = Path(__file__).resolve().parent / "results"
ATTEMPTS = "attempts.csv"
COMMAND = "All of it is made by `python -m analysis.overhead`."


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    path = options.out / f"heads_{device.type}.csv"
    cases = quick_cases() if options.quick else all_cases()
    wanted = [case for case in cases if options.only in case.name]
    if not wanted:
        groups = ", ".join(dict.fromkeys(case.group for case in cases))
        raise SystemExit(f"--only {options.only}: no such case; the questions are {groups}")
    fill(path, wanted, [case.name for case in cases], options, device)
    if not (options.out / ATTEMPTS).exists() or options.again:
        nets = ["plain 6x8"] if options.quick else list(MODELS)
        save(attempt_all(nets), options.out / ATTEMPTS)
    tables = {kind: read(options.out / f"heads_{kind}.csv") for kind in ("cpu", "cuda")}
    tables = {kind: table for kind, table in tables.items() if len(table)}
    for kind, table in tables.items():
        draw(table, options.out / f"heads_{kind}.png")
    made_by = COMMAND if options.out == RESULTS else "Made by a run of its own, not the study's."
    page = write_page(tables, pd.read_csv(options.out / ATTEMPTS), made_by)
    (options.out / "RESULTS.md").write_text(page, encoding="utf-8")
    print(f"table, figure and RESULTS.md are in {options.out}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="networks too small to tell anything")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--again", action="store_true", help="measure anew what is there already")
    parser.add_argument("--rounds", type=int, help="ratios to take the median of (default: 20)")
    parser.add_argument(
        "--most", type=int, help="rounds at most, where an aim is undecided (default: 60)"
    )
    parser.add_argument("--out", type=Path, help=f"folder (default: {RESULTS.name} beside this)")
    options = parser.parse_args(arguments)
    if options.quick and options.out is None:
        parser.error("--quick needs --out: its numbers must not mix with those of the study")
    options.out = options.out or RESULTS
    options.rounds = options.rounds or (2 if options.quick else 20)
    options.most = max(options.most or (2 if options.quick else 60), options.rounds)
    return options


def fill(
    path: Path,
    cases: Sequence[Case],
    order: Sequence[str],
    options: argparse.Namespace,
    device: torch.device,
) -> None:
    """Measure what the table lacks, and put each case on the disk when it is done."""
    table = read(path)
    there = set() if options.again or table.empty else set(table["case"])
    todo = [case for case in cases if case.name not in there]
    bar = tqdm(todo, unit="case", dynamic_ncols=True, disable=not todo)
    for case in bar:
        tell = _teller(bar, case.name)
        rows = measure(case, device, options.rounds, options.most, tell)
        kept = table[table["case"] != case.name] if len(table) else table
        table = pd.concat([part for part in (kept, rows) if len(part)])
        rank = {name: index for index, name in enumerate(order)}
        table = table.sort_values("case", key=lambda names: names.map(rank), kind="stable")
        save(table, path)


def _teller(bar: tqdm, name: str) -> Callable[[str], None]:
    return lambda text: bar.set_postfix_str(f"{name}: {text}")


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def save(table: pd.DataFrame, path: Path) -> None:
    """Replace a file in one go: whenever it is interrupted, the file is whole."""
    unfinished = path.with_name(f"{path.name}.part")
    table.to_csv(unfinished, index=False, float_format="%.6g", lineterminator="\n")
    unfinished.replace(path)


if __name__ == "__main__":
    main()
