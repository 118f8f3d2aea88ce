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
# How long, in seconds, to wait for the name of a process that has locked a folder just now.
PATIENCE = 10.0
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
    """Take the lock before judging what the folder holds: a running process may just write it."""
    try:
        if not resumed:
            folder.mkdir(parents=True, exist_ok=True)
            refuse_before_locking(folder)
        acquire(folder, lock)
    except OSError as error:
        raise UserError(f"--out {folder}: {one_line(error)}") from error
    try:
        if is_ours(folder / OWNER):  # that of a killed process, which holds nothing more
            (folder / OWNER).unlink(missing_ok=True)
        if not resumed:
            refuse_foreign(folder)
        clear_leftovers(folder)
        me = {"host": socket.gethostname(), "process": os.getpid(), "since": time.ctime()}
        write_text(folder / OWNER, json.dumps(me), "make room or mend the folder")
    except BaseException:
        lock.release()
        raise


def refuse_before_locking(folder: Path) -> None:
    """A folder of others is to stay as it is, without so much as a lock in it.

    The lock is the first thing that a run writes, and is never removed. Where it is there once all
    was looked at, what is strange may be a run's, half written; else nothing is.
    """
    try:
        refuse_foreign(folder)
    except UserError:
        if not (folder / LOCK).exists():
            raise
        refuse_a_run(folder)


def acquire(folder: Path, lock: FileLock) -> None:
    """Lock a folder, or say who has done so, once that process had time to write its name."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout as error:
            holder = owner(folder)
            if holder is None and time.monotonic() < end:
                time.sleep(0.02)
                continue
            raise UserError(
                f"{folder} is in use by {holder or 'another process'}: wait for it, stop it, or "
                "choose another folder by --out"
            ) from error


def owner(folder: Path) -> str | None:
    """Who holds a folder, in words; None where no process that may still run has said so."""
    try:
        found = json.loads((folder / OWNER).read_text())
        if found["host"] == socket.gethostname() and is_gone(found["process"]):
            return None
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_gone(process: int) -> bool:
    """Whether a process of this machine has ended; not told on Windows, where asking ends it."""
    if os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def refuse_foreign(folder: Path) -> None:
    """A new run begins in a folder of its own, and overwrites nothing."""
    refuse_a_run(folder)
    for path in sorted(folder.iterdir()):
        if not is_ours(path) and os.path.lexists(path):  # some other program may have removed it
            raise UserError(
                f"{folder} holds {path.name}, which is no new run's: choose another folder by --out"
            )


def refuse_a_run(folder: Path) -> None:
    if (folder / LAST).exists():
        raise UserError(
            f"{folder} already holds a run: go on with it by --resume {folder}, or choose another "
            "folder by --out"
        )


def is_ours(path: Path) -> bool:
    """Whether a file is what a run leaves that was killed before it had saved anything."""
    if path.name == LOCK:
        return True
    try:
        return is_leftover(path) or (path.name == OWNER and begins_as_ours(path, OWNER))
    except OSError:  # it is gone, or cannot be read
        return False


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed process of this run had half written, and nothing else."""
    for path in (*folder.glob(".*.tmp"), *folder.glob("gradients/.*.tmp")):
        if is_ours(path):
            path.unlink(missing_ok=True)


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
