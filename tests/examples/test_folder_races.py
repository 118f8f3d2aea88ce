"""Two processes in one folder, stopped at every point of what they do there."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from filelock import FileLock

TEMPORARY = "..owner.5834ae42.tmp"
NAME = b'{"host": "'


@pytest.fixture
def trainer(example_modules, monkeypatch):
    folder = example_modules("trainer.folder")
    monkeypatch.setattr(folder, "PATIENCE", 0.0, raising=False)
    return folder


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return path


def begin(trainer, run, resumed=False):
    """Claim the folder as a process does that begins there: what it says, and its lock."""
    lock = FileLock(run / ".lock", timeout=0)
    try:
        trainer.claim(run, lock, resumed)
    except trainer.UserError as error:
        assert not lock.is_locked
        return str(error), lock
    return "", lock


@pytest.fixture
def held(run):
    with FileLock(run / ".lock"):
        yield


STATES = {
    "the lock alone": {},
    "an empty name": {TEMPORARY: b""},
    "half a name": {TEMPORARY: NAME},
    "no whole owner": {".owner": NAME},
    "an owner with nothing in it": {".owner": b""},
    "settings first": {"config.json": b"{}", "split.json": b"{}"},
    "settings, half": {".config.json.5834ae42.tmp": b"{"},
    "a table": {"metrics.csv": b"epoch,", ".metrics.csv.5834ae42.tmp": b""},
    "between two checkpoints": {"previous.pt": b"PK\x03\x04", ".last.pt.5834ae42.tmp": b"PK"},
    "what a later version may write": {"something.new": b"?", ".something.5834ae42.tmp": b"?"},
    "another's name for a download": {".part": b"?", "data.part": b"?"},
}


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_what_a_running_process_writes_is_nobody_elses(trainer, run, held, state, resumed):
    for name, content in state.items():
        (run / name).write_bytes(content)
    error, _ = begin(trainer, run, resumed)
    assert f"{run} is in use by another process" in error
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.name != ".lock"} == state


def list_also(monkeypatch, name):
    """Let folders list a file that is gone when it is looked at."""
    real = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([*real(self), self / name]))


@pytest.mark.parametrize("name", [TEMPORARY, ".owner", "config.json", ".last.pt.5834ae42.tmp"])
def test_a_file_that_vanishes_is_of_no_account(trainer, run, monkeypatch, name):
    list_also(monkeypatch, name)
    with FileLock(run / ".lock"):
        assert "in use by" in begin(trainer, run)[0]
    error, lock = begin(trainer, run)
    assert not error
    lock.release()


@pytest.mark.parametrize("name", [TEMPORARY, ".owner"])
def test_a_file_that_vanishes_while_it_is_read_is_of_no_account(trainer, run, monkeypatch, name):
    def gone(path, name):
        path.unlink()
        raise FileNotFoundError(errno.ENOENT, "gone", str(path))

    (run / name).write_bytes(NAME)
    monkeypatch.setattr(trainer, "begins_as_ours", gone)
    error, lock = begin(trainer, run)
    assert not error
    lock.release()


@pytest.mark.parametrize("locked_before", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", ".owner", TEMPORARY])
def test_a_strangers_file_is_refused_whether_or_not_a_run_began_there(
    trainer, run, name, locked_before
):
    (run / name).write_text("mine")
    if locked_before:
        (run / ".lock").touch()
    names = sorted(path.name for path in run.iterdir())
    assert f"holds {name}, which is no new run's" in begin(trainer, run)[0]
    assert sorted(path.name for path in run.iterdir()) == names
    assert (run / name).read_text() == "mine"


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def named(process):
    return json.dumps({"host": socket.gethostname(), "process": process, "since": "today"})


@pytest.mark.parametrize("before", ["nobody", "a killed one"])
@pytest.mark.parametrize("resumed", [False, True])
def test_the_name_of_who_has_locked_it_is_waited_for(
    trainer, run, held, before, resumed, monkeypatch
):
    monkeypatch.setattr(trainer, "PATIENCE", 60.0)
    if before == "a killed one":
        (run / ".owner").write_text(named(dead_process()))
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            (run / ".owner").write_text(named(os.getpid()))

    monkeypatch.setattr(trainer.time, "sleep", sleep)
    error, _ = begin(trainer, run, resumed)
    assert f"in use by process {os.getpid()} on {socket.gethostname()}" in error
    assert len(waits) == 3


@pytest.mark.parametrize("saved", [False, True])
def test_who_waits_for_a_name_goes_on_where_the_other_ends(trainer, run, saved, monkeypatch):
    monkeypatch.setattr(trainer, "PATIENCE", 60.0)
    first = FileLock(run / ".lock")
    first.acquire()

    def sleep(seconds):
        if saved:
            (run / "last.pt").write_bytes(b"PK\x03\x04")
        first.release()

    monkeypatch.setattr(trainer.time, "sleep", sleep)
    error, lock = begin(trainer, run)
    assert ("already holds a run" in error) == saved
    assert lock.is_locked != saved
    lock.release()


def lines_of(trainer, work, act):
    """Run ``work``; before each line of the trainer's folder.py in it, call ``act``."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if frame.f_code.co_filename != trainer.__file__:
            return None
        if event == "line":
            sys.settrace(None)
            act(count)
            count += 1
            sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def fill(trainer, run):
    """What a run writes before its first checkpoint is there, and that."""
    for name, content in (("config.json", "{}"), ("metrics.csv", "epoch,"), ("last.pt", "PK")):
        trainer.write_text(run / name, content, "")


def test_a_process_is_refused_at_every_point_of_what_the_first_does(trainer, run):
    said = []

    def first():
        with trainer.claimed(run, False, World()):
            fill(trainer, run)

    def second(line):
        if (run / ".lock").exists():  # at its last lines the first has given it up again
            error, lock = begin(trainer, run)
            lock.release()
            said.append(error)

    assert lines_of(trainer, first, second) > 50
    assert len(said) > 50
    for error in said:
        assert "in use by" in error or "already holds a run" in error, error
    assert sum("in use by another" in error for error in said) < sum(
        f"in use by process {os.getpid()}" in error for error in said
    )


class World:
    def alone(self, work):
        work()


def test_a_process_that_begins_at_any_point_of_anothers_beginning_leaves_one_run(trainer, tmp_path):
    """The second does all that it does between two lines of the first."""
    count = 0
    line = 0
    while not count or line < count:
        run = tmp_path / f"run{line}"
        with ExitStack() as stack:
            held, said = [], []

            def claim_it(run=run, held=held, said=said, stack=stack):
                error, lock = begin(trainer, run)
                stack.callback(lock.release)
                said.append(error)
                if not error:
                    held.append(lock)

            def second(at, line=line, run=run, claim_it=claim_it, held=held):
                if at == line:
                    claim_it()
                    if held:
                        fill(trainer, run)

            count = max(count, lines_of(trainer, claim_it, second))
            assert len(held) == 1, said
            (error,) = filter(None, said)
            assert "in use by" in error or "already holds a run" in error, error
        line += 1
    assert count > 20


def test_two_at_once_wait_for_each_other_without_a_stranger(trainer, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "PATIENCE", 60.0)
    for turn in range(30):
        run, said = tmp_path / f"run{turn}", []
        done = threading.Barrier(2)

        def one(run=run, said=said, done=done):
            error, lock = begin(trainer, run)
            said.append(error)
            done.wait(60)
            lock.release()

        pair = [threading.Thread(target=one) for _ in range(2)]
        for thread in pair:
            thread.start()
        for thread in pair:
            thread.join()
        won, lost = sorted(said)
        assert not won and f"in use by process {os.getpid()}" in lost
