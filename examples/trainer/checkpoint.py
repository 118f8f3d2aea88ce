"""Checkpoints that survive a crash at any moment, and are checked before they are trusted."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .errors import UserError, one_line
from .folder import LAST, temporary_name, write_atomically

__all__ = [
    "BEST",
    "LAST",
    "PREVIOUS",
    "find",
    "load",
    "merge",
    "rng_state",
    "save",
    "set_rng_state",
    "share",
]

PREVIOUS, BEST = "previous.pt", "best.pt"
FORMAT = "sj_shortcut examples"
VERSION = 3
FIELDS: dict[str, type | tuple[type, ...]] = {
    "script": str,
    "settings": dict,
    "changes": list,
    "data": dict,
    "position": dict,
    "history": list,
    "model": dict,
    "optimizer": dict,
    "lr": dict,
    "schedule": (dict, type(None)),
    "price": (dict, type(None)),
    "scaler": dict,
    "rng": list,
}
# What is read of each epoch that was trained.
COLUMNS = {
    *("epoch", "lambda", "loss", "loss_main", "train_accuracy", "test_accuracy", "seconds"),
    "images_per_second",
}
# Written behind the archive, as its comment: torch looks at no checksum at all.
SEAL = re.compile(rb"sj_shortcut sha256 ([0-9a-f]{64})")
SEAL_SIZE = len(b"sj_shortcut sha256 ") + 64


def save(folder: Path, state: dict[str, Any], best: bool = False) -> None:
    """Write last.pt, keeping the one before as previous.pt, and best.pt if it is the best."""
    last = folder / LAST
    remedy = f"make room or mend the folder, then go on with --resume {folder}"
    if not last.exists():
        remedy = "make room or mend the folder, then start again"
    else:
        keep(last, folder / PREVIOUS, remedy)
    content = {"format": FORMAT, "version": VERSION, **state}
    write_atomically(last, lambda file: write_sealed(file, content), remedy)
    if best:
        keep(last, folder / BEST, remedy)


def write_sealed(file: Any, content: dict[str, Any]) -> None:
    """Write a file that torch.load reads, and after it the hash of all that stands before."""
    torch.save(content, file)
    file.seek(-2, os.SEEK_END)  # where a zip archive tells the length of the comment it ends with
    file.write(struct.pack("<H", SEAL_SIZE))
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0, os.SEEK_END)
    file.write(b"sj_shortcut sha256 " + digest.encode())


def seal_holds(file: Any) -> bool | None:
    """Whether every byte is as it was written; None for a file that has no seal."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - SEAL_SIZE))
    seal = SEAL.fullmatch(file.read())
    file.seek(0)
    if seal is None:
        return None
    digest = hashlib.sha256()
    left = size - SEAL_SIZE
    while block := file.read(min(left, 1 << 20)):
        digest.update(block)
        left -= len(block)
    file.seek(0)
    return digest.hexdigest().encode() == seal[1]


def keep(source: Path, target: Path, remedy: str) -> None:
    """Give a written file a second name, at no cost where the file system has hard links."""
    temporary = temporary_name(target)
    try:
        os.link(source, temporary)
        os.replace(temporary, target)
        temporary.unlink(missing_ok=True)  # replacing a file by another name of itself is a no-op
    except OSError:
        temporary.unlink(missing_ok=True)
        with open(source, "rb") as opened:
            write_atomically(target, lambda file: shutil.copyfileobj(opened, file), remedy)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, or say what is wrong with it and which other one to take."""
    path = find(path)
    try:
        with open(path, "rb") as file:
            sealed = seal_holds(file)
            if sealed is False:
                raise UserError(f"{path} is damaged: not all is as it was written{other(path)}")
            if sealed is None:
                raise UserError(
                    f"{path} is truncated, damaged or no checkpoint of these scripts{other(path)}"
                )
            state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path} ({one_line(error)}){other(path)}") from error
    except UserError:
        raise
    except Exception as error:  # whatever torch has to say of a file that it did not write
        raise UserError(f"{path} is no checkpoint of these scripts{other(path)}") from error
    check(state, path)
    checked: dict[str, Any] = state
    return checked


def check(state: Any, path: Path) -> None:
    """Refuse what these scripts did not write, or not in this version."""
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is no checkpoint of these scripts{other(path)}")
    version = state.get("version")
    if version != VERSION:
        age = "a newer" if isinstance(version, int) and version > VERSION else "another"
        raise UserError(
            f"{path} was written by {age} version of these scripts ({version!r}; this is "
            f"{VERSION}): resume it with that one"
        )
    for name, kind in FIELDS.items():
        if name not in state:
            raise UserError(f"{path} lacks {name!r}, so it cannot be gone on from{other(path)}")
        if not isinstance(state[name], kind):
            raise UserError(
                f"{path} has {type(state[name]).__name__} for {name!r}, so it cannot be gone on "
                f"from{other(path)}"
            )
    position, history = state["position"], state["history"]
    whole = all(isinstance(position.get(name), int) for name in ("epoch", "batch", "skipped"))
    whole = whole and isinstance(position.get("totals"), dict) and "last_epoch" in state["lr"]
    whole = whole and all(isinstance(row, dict) and row.keys() >= COLUMNS for row in history)
    if not whole or len(history) != position["epoch"]:
        raise UserError(f"{path} does not fit together: it tells no place to go on from")


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
