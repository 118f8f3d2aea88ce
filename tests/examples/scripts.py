"""Runs the example scripts as a user does, but from a process that has imported torch already."""

import multiprocessing
import os
import re
import runpy
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"
DATA = Path(os.environ.get("SJ_SHORTCUT_DATA", ROOT.parent / "shared" / "data"))

# A net and a data set on which an epoch takes a blink.
TINY = (
    "--dataset digits --model plain:4 --width 4 --T 2 --batch-size 20 --train-per-class 10 "
    "--test-per-class 5 --workers 0"
).split()

# A guard against a script that never ends, and not a limit on speed: machines may be slow, or busy.
HANG = 1500

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "sklearn.datasets",
        "spikingjelly.activation_based.model.sew_resnet",
        "spikingjelly.datasets.n_mnist",
        "torch.distributed",
        "torch.utils.tensorboard",
        "torchvision.transforms.v2",
        "matplotlib.figure",
        "sj_shortcut",
    ]
)


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The error: one line, and nothing else but other packages' warnings."""
        assert self.code == 2, (self.code, self.out, self.err)
        lines = re.sub(r".*Warning: .*\n(  .*\n)?", "", self.err).strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: "), self.err
        return lines[0]


class Script:
    """A running script."""

    def __init__(self, script, *args, log, before=None, cwd=None):
        self.log = Path(log)
        for suffix in (".out", ".err"):
            self.log.with_suffix(suffix).unlink(missing_ok=True)
        argv = [str(arg) for arg in args]
        self.process = _context.Process(
            target=_child, args=(script, argv, str(self.log), before, cwd)
        )
        self.process.start()

    def wait(self, timeout=HANG) -> Done:
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"still running after {timeout} s: {self.output('.err')}")
        return Done(self.process.exitcode, self.output(".out"), self.output(".err"))

    def output(self, suffix=".out") -> str:
        path = self.log.with_suffix(suffix)
        return path.read_text() if path.exists() else ""

    def wait_for(self, text, timeout=HANG):
        end = time.time() + timeout
        while text not in self.output():
            assert time.time() < end, self.output(".err")
            if not self.process.is_alive():
                ended = f"ended with {self.process.exitcode} before {text!r}"
                raise AssertionError(ended + self.output() + self.output(".err"))
            time.sleep(0.02)

    def send(self, signal_number):
        os.kill(self.process.pid, signal_number)


def _child(script, argv, log, before, cwd):
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        file = os.open(str(Path(log).with_suffix(suffix)), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    if cwd is not None:
        os.chdir(cwd)
    # Block-buffered, as is the output of any script that goes to a file.
    sys.stdout = open(1, "w", closefd=False)
    torch.set_num_threads(1)
    path = EXAMPLES / script
    sys.path.insert(0, str(EXAMPLES))
    sys.argv = [str(path), *argv]
    if before is not None:
        before()
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def run(script, *args, log, **kwargs) -> Done:
    """Run a script to its end."""
    return Script(script, *args, log=log, **kwargs).wait()


def succeed(script, *args, log, **kwargs) -> Done:
    done = run(script, *args, log=log, **kwargs)
    assert done.code == 0, done.out + done.err
    return done


def weights(folder):
    return torch.load(Path(folder) / "model.pt", weights_only=True)


def assert_same_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def shared(name):
    """A file of the real data sets, or a skip that says how to get it."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is missing: set SJ_SHORTCUT_DATA to the folder that holds it")
    return path
