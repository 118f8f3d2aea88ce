"""Write the page of SpikingJelly's models and example networks, ``docs/models.md``.

    python -m analysis.zoo --other FOLDER

FOLDER holds the other generation of SpikingJelly, to be laid over the installed one. What is in the
tables in ``analysis/zoo/results`` is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from analysis.zoo.models import by_cost
from analysis.zoo.page import page

RESULTS = Path(__file__).parent / "results"

Results = dict[str, dict[str, Any]]


def main() -> None:
    """Check every network, each in a process and with a limit of time, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("--other", type=Path, help="folder of the other generation")
    parser.add_argument("--again", default=None, help="do networks with this in their name anew")
    parser.add_argument("--seconds", type=int, default=600, help="limit of time for each")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables")
    parser.add_argument("--page", type=Path, default=Path("docs/models.md"))
    args = parser.parse_args()
    args.results.mkdir(parents=True, exist_ok=True)
    for folder in (None, args.other) if args.other else (None,):
        version = _version(folder)
        path = args.results / f"spikingjelly-{version}.json"
        known: Results = json.loads(path.read_text("utf-8")) if path.exists() else {}
        for entry in by_cost():
            if entry.name in known and (args.again is None or args.again not in entry.name):
                continue
            result = known[entry.name] = _checked(entry.name, folder, args.seconds)
            path.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", "utf-8")
            print(version, entry.name, result["verdict"], result.get("text"), flush=True)
    found = {
        path.stem.removeprefix("spikingjelly-"): json.loads(path.read_text("utf-8"))
        for path in sorted(args.results.glob("spikingjelly-*.json"), reverse=True)
    }
    args.page.write_text(page(found), "utf-8")


class _Raw(argparse.RawDescriptionHelpFormatter):
    pass


def _environment(folder: Path | None) -> dict[str, str]:
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return plain if folder is None else {**plain, "PYTHONPATH": str(folder.resolve())}


def _checked(name: str, folder: Path | None, seconds: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "analysis.zoo.check", name]
    try:
        done = subprocess.run(
            command, env=_environment(folder), capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return {"verdict": "slow", "text": f"not done in {seconds} s"}
    if done.returncode:
        return {"verdict": "wrong", "text": done.stderr[-300:]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _version(folder: Path | None) -> str:
    code = "import importlib.metadata as m; print(m.version('spikingjelly'))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=_environment(folder), capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    main()
