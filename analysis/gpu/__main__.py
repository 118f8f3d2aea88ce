"""Check and measure on a GPU everything that a CPU cannot show: ``python -m analysis.gpu``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analysis.common.versions import made_with
from analysis.gpu.costs import BATCHES, cost
from analysis.gpu.parity import checks
from analysis.gpu.steps import UnavailableError, exact

__all__ = ["main"]

OUT = Path(__file__).parent / "results" / f"gpu-{version('spikingjelly')}.csv"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what there is time for, print a table and write it.

    Returns:
        0, also on a machine without a GPU, where nothing is run; 1 where a check failed.
    """
    args = _arguments(argv)
    asked = checks(args.device)
    if args.device == "cuda" and not torch.cuda.is_available():
        print(_what_it_would_do(list(asked), args.minutes))
        return 0
    exact()
    end = time.monotonic() + 60 * args.minutes
    measures: dict[str, Callable[[], Any]] = dict(asked)
    for size in args.batches:
        # A first batch is looked at, and libraries choose their algorithms: before the clock runs.
        measures[f"step, batch {size}"] = lambda size=size: cost(  # type: ignore[misc]
            args.device, size, args.rounds, args.side
        )
    rows = []
    for name, measure in measures.items():
        if args.only and not any(word in name for word in args.only):
            continue
        late = time.monotonic() > end
        row = {"check": name, **({"result": "no time"} if late else _outcome(measure))}
        print(f"{name}: {row['result']} {row.get('why', '')}", flush=True)
        rows.append({**row, **made_with(torch.device(args.device)), **_libraries()})
    table = pd.DataFrame(rows)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out, index=False)
    print("\n" + _shown(table).to_string(index=False))
    print(f"\n{args.out}")
    return int((table["result"] == "FAILED").any()) if rows else 0


def _outcome(measure: Callable[[], Any]) -> dict[str, Any]:
    start = time.monotonic()
    try:
        found = measure()
        row = {"result": "ok", **(found or {})}
    except UnavailableError as error:
        row = {"result": "skipped", "why": str(error)}
    except Exception as error:  # whatever a backend does, the other rows are to follow
        text = " ".join(str(error).split())
        row = {"result": "FAILED", "why": f"{type(error).__name__}: {text[-300:]}"}
    return {**row, "seconds": round(time.monotonic() - start, 1)}


def _libraries() -> dict[str, str]:
    cupy = filter(None, map(_version, ("cupy-cuda12x", "cupy-cuda13x", "cupy")))
    found = {"cuda": str(torch.version.cuda), "cupy": next(cupy, ""), "triton": _version("triton")}
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """What differs from row to row, without empty columns."""
    alike = ["commit", "torch", "spikingjelly", "device", "cuda", "cupy", "triton"]
    shown = table.drop(columns=[name for name in alike if name in table]).dropna(axis=1, how="all")
    return shown.astype(object).fillna("")


def _what_it_would_do(names: Sequence[str], minutes: float) -> str:
    sizes = ", ".join(map(str, BATCHES))
    return (
        "This machine has no GPU that PyTorch can use: nothing was run. With one it takes at most "
        f"some {minutes:g} minutes, and would\n"
        f"- compare with PyTorch's own step: {'; '.join(names)};\n"
        "- measure time, memory, kernels and the share of launches of a training step of\n"
        f"  spiking_resnet18, wrapped against bare, at batches of {sizes};\n"
        f"- print a table, and write it with card and versions to {OUT.name}.\n"
        "--device cpu runs those of them that a CPU can, to try the program itself."
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m analysis.gpu", description=__doc__)
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--minutes", type=float, default=7.0, help="begin nothing after these (default: 7)")
    add("--batches", type=int, nargs="*", default=list(BATCHES), help="sizes (default: 2 32 128)")
    add("--rounds", type=int, default=20, help="steps of each to take the median of (default: 20)")
    add("--side", type=int, default=32, help="height and width of images (default: 32)")
    add("--only", nargs="*", help="only rows whose name has one of these in it")
    add("--out", type=Path, default=OUT, help="table to write (default: %(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
