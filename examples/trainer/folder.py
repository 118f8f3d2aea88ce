"""One folder, one run: who may write into it, and how files get there whole."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .errors import UserError, one_line
from .processes import World

__all__ = ["LAST", "claimed", "one_at_a_time", "temporary_name", "write_atomically", "write_text"]

LAST = "last.pt"
LOCK, OWNER = ".lock", ".owner"
# What a run writes, and how each kind of file begins: by both, what a killed one left is known.
WRITTEN = re.compile(
    r"\.(?:(?:last|previous|best|model)\.pt|(?:config|split)\.json|(?:curves|gradients|spikes)\.png"
    r"|(?:metrics|spikes|epoch-\d{4,})\.csv|\.owner)\.[0-9a-f]{8}\.tmp"
)
BEGINNINGS = {
    ".pt": b"PK\x03\x04",
    ".png": b"\x89PNG",
    ".json": b"{",
    OWNER: b'{"host": ',
    "owner": b'{"host": ',
    "metrics.csv": b"epoch,",
    "spikes.csv": b"epoch,",
    ".csv": b"run,",
}


@contextlib.contextmanager
def claimed(folder: Path, resumed: bool, world: World) -> Iterator[None]:
    """Hold the folder of a run for this process alone, and for those that train with it.

    The lock is the operating system's and ends with the process, however that ends.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    world.alone(lambda: claim(folder, lock, resumed))
    try:
        yield
    finally:
        if lock.is_locked:
            (folder / OWNER).unlink(missing_ok=True)
            lock.release()


@contextlib.contextmanager
def one_at_a_time(folder: Path, made: Callable[[], bool]) -> Iterator[None]:
    """Where something is still to be made in a folder, let one process do it, and others wait."""
    if made():
        yield
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{folder.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting for another process, which prepares {folder}", flush=True)
            lock.acquire()
    except OSError as error:
        raise UserError(
            f"cannot prepare {folder} ({one_line(error)}): the folder it lies in must be writable"
        ) from error
    try:
        yield
    finally:
        lock.release()


def claim(folder: Path, lock: FileLock, resumed: bool) -> None:
    try:
        if not resumed:
            folder.mkdir(parents=True, exist_ok=True)
            refuse_foreign(folder)
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{folder} is in use by {owner(folder)}: wait for it, stop it, or choose another "
            "folder by --out"
        ) from error
    except OSError as error:
        raise UserError(f"--out {folder}: {one_line(error)}") from error
    try:
        if not resumed:
            refuse_foreign(folder)  # another run may have begun, and ended, meanwhile
        clear_leftovers(folder)
        me = {"host": socket.gethostname(), "process": os.getpid(), "since": time.ctime()}
        write_text(folder / OWNER, json.dumps(me), "make room or mend the folder")
    except BaseException:
        lock.release()
        raise


def owner(folder: Path) -> str:
    """Who holds a folder, in words."""
    try:
        found = json.loads((folder / OWNER).read_text())
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def refuse_foreign(folder: Path) -> None:
    """A new run begins in a folder of its own, and overwrites nothing."""
    if (folder / LAST).exists():
        raise UserError(
            f"{folder} already holds a run: go on with it by --resume {folder}, or choose another "
            "folder by --out"
        )
    for path in sorted(folder.iterdir()):
        ours = path.name == LOCK or (path.name == OWNER and begins_as_ours(path, OWNER))
        if not ours and not is_leftover(path):
            raise UserError(
                f"{folder} holds {path.name}, which is no new run's: choose another folder by --out"
            )


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed process of this run had half written, and nothing else."""
    for path in (*folder.glob(".*.tmp"), *folder.glob("gradients/.*.tmp")):
        if is_leftover(path):
            path.unlink()


def is_leftover(path: Path) -> bool:
    if not WRITTEN.fullmatch(path.name) or path.is_symlink() or not path.is_file():
        return False
    return begins_as_ours(path, path.name[1 : -len(".01234567.tmp")])


def begins_as_ours(path: Path, name: str) -> bool:
    """Whether a file, or as much of it as was written, begins as the run's file of that name."""
    expected = next(begin for end, begin in BEGINNINGS.items() if name.endswith(end))
    with path.open("rb") as file:
        return expected.startswith(file.read(len(expected)))


def temporary_name(path: Path) -> Path:
    """A name that no other process chooses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def write_atomically(path: Path, write: Callable[[Any], Any], remedy: str) -> None:
    """Let ``write`` fill a new file and put it in the place of ``path`` once it is on the disk."""
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb+") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save turns some write errors into the latter
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path} ({first_cause(error)}): {remedy}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def first_cause(error: BaseException) -> str:
    """What the system said: an archive that cannot be closed either tells of that alone."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    return one_line(found or error)


def write_text(path: Path, text: str, remedy: str) -> None:
    """Write a text file whole or not at all; names of files may hold bytes that are no UTF-8."""
    content = text.encode(errors="surrogateescape")
    write_atomically(path, lambda file: file.write(content), remedy)


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut; Windows has no such call and needs none."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
