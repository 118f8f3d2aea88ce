"""Checkpoints that survive a crash at any moment, and are checked before they are trusted."""

from __future__ import annotations

import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .errors import UserError, one_line

__all__ = [
    "BEST",
    "LAST",
    "PREVIOUS",
    "clear_leftovers",
    "find",
    "load",
    "merge",
    "rng_state",
    "save",
    "set_rng_state",
    "settings",
    "share",
    "write_atomically",
    "write_text",
]

FORMAT = "sj_shortcut example, version 1"
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"


def write_atomically(path: Path, write: Callable[[Any], None], remedy: str) -> None:
    """Let ``write`` fill a new file and put it in the place of ``path`` once it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save turns some write errors into the latter
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path} ({one_line(error)}): {remedy}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, remedy: str) -> None:
    """Write a text file whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()), remedy)


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut; Windows has no such call and needs none."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def save(folder: Path, state: dict[str, Any], best: bool = False) -> None:
    """Write last.pt, keeping the one before as previous.pt, and best.pt if it is the best."""
    last = folder / LAST
    remedy = f"make room or mend the folder, then go on with --resume {folder}"
    if not last.exists():
        remedy = "make room or mend the folder, then start again"
    else:
        keep(last, folder / PREVIOUS, remedy)
    write_atomically(last, lambda file: torch.save({"format": FORMAT, **state}, file), remedy)
    if best:
        keep(last, folder / BEST, remedy)


def keep(source: Path, target: Path, remedy: str) -> None:
    """Give a written file a second name, at no cost where the file system has hard links."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
        os.replace(temporary, target)
        temporary.unlink(missing_ok=True)  # replacing a file by another name of itself is a no-op
    except OSError:
        with open(source, "rb") as opened:
            write_atomically(target, lambda file: shutil.copyfileobj(opened, file), remedy)


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed process had half written."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink()


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, or say what is wrong with it and which other one to take."""
    path = find(path)
    try:
        # torch does not look at the checksums of the archive, so a flipped bit would go unseen.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise UserError(f"{path} is damaged (in {damaged}){other(path)}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path} ({one_line(error)}){other(path)}") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is truncated or no checkpoint{other(path)}") from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} is no checkpoint of these scripts{other(path)}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is no checkpoint of these scripts{other(path)}")
    return state


def find(path: str | Path) -> Path:
    """The checkpoint that a path, of a run or of a file, means."""
    path = Path(path)
    if path.is_dir():
        path = path / LAST
    if not path.exists():
        raise UserError(f"there is no checkpoint {path}{other(path)}")
    return path


def other(path: Path) -> str:
    """Which other checkpoint to offer."""
    previous = path.with_name(PREVIOUS)
    if path.name != PREVIOUS and previous.exists():
        return f": go on from the one before with --resume {previous}"
    return ": start a new run, or name another one with --resume"


def settings(path: str | Path, script: str) -> dict[str, Any]:
    """The command-line settings of the run that wrote a checkpoint."""
    state = load(path)
    if state["script"] != script:
        raise UserError(f"{find(path)} was written by {state['script']}: resume it with that")
    saved: dict[str, Any] = state["settings"]
    return saved


def rng_state() -> dict[str, Any]:
    """State of every random generator of this process, of builtins and tensors only."""
    numpy_state = np.random.get_state(legacy=False)
    numpy_state["state"]["key"] = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    return {
        "python": random.getstate(),
        "numpy": numpy_state,
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Put every random generator of this process back to where it was."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    words = {**state["numpy"]["state"]}
    words["key"] = words["key"].numpy().astype(np.uint32)
    np.random.set_state({**state["numpy"], "state": words})
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def merge(schedules: list[dict[str, Any]]) -> dict[str, Any]:
    """One state of a schedule: what each process saw of an unfinished epoch is added up."""
    first, *others = schedules
    if "sums" not in first:
        return first
    merged = {**first, "sums": dict(first["sums"])}
    for other in others:
        merged["batches"] += other["batches"]
        for name, value in other["sums"].items():
            merged["sums"][name] = merged["sums"].get(name, 0.0) + value
    return merged


def share(schedule: dict[str, Any], rank: int) -> dict[str, Any]:
    """What a process goes on with: process 0 with all that was seen, whoever saw it."""
    if rank and "sums" in schedule:
        return {**schedule, "sums": {}, "batches": 0}
    return schedule
