"""Nothing is lost: kill, stop, resume, damaged checkpoints, a full disk."""

import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from functools import partial

import pandas as pd
import pytest
import torch

from tests.examples.scripts import EXAMPLES, TINY, Script, assert_same_weights, run, succeed

# 3 epochs of 5 batches, and a checkpoint after every single batch.
RUN = [*TINY, "--epochs", "3", "--checkpoint-every", "1", "--crop", "--cutout", "3"]
TIMES = ["seconds", "images_per_second", "waiting"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    succeed("train_cifar.py", *RUN, "--out", folder / "run", log=folder / "log")
    return folder / "run"


def metrics(folder):
    return pd.read_csv(folder / "metrics.csv").drop(columns=TIMES)


def test_a_seed_gives_the_same_bits_with_any_number_of_loading_processes(whole, tmp_path):
    args = [*RUN, "--workers", "2", "--out", tmp_path / "run"]
    succeed("train_cifar.py", *args, log=tmp_path / "log")
    assert_same_weights(whole, tmp_path / "run")
    pd.testing.assert_frame_equal(metrics(whole), metrics(tmp_path / "run"))


def die_in(function, calls):
    """Make a process kill itself in the middle of writing a file."""
    original = getattr(os, function)
    left = [calls]

    def last_call(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(os, function, last_call)


def test_killed_at_ten_random_moments(tmp_path):
    # Long enough for a fast machine not to reach the end before the tenth kill.
    long, whole, folder = [*RUN, "--epochs", "30"], tmp_path / "whole", tmp_path / "run"
    succeed("train_cifar.py", *long, "--out", whole, log=tmp_path / "log")
    rng = random.Random(0)
    positions = []
    for kill in range(10):
        # Half of them while a checkpoint is written, half whenever it happens.
        before = partial(die_in, rng.choice(["fsync", "replace", "link"]), rng.randint(4, 12))
        going_on = (folder / "last.pt").exists()
        args = ["--resume", folder] if going_on else [*long, "--out", folder]
        script = Script(
            "train_cifar.py", *args, log=tmp_path / "log", before=before if kill % 2 else None
        )
        script.wait_for("results in")
        if kill % 2 == 0:
            time.sleep(rng.uniform(0, 0.05))
            script.send(signal.SIGKILL)
        script.process.join()
        assert script.process.exitcode == -signal.SIGKILL, script.output(".err")
        if (folder / "last.pt").exists():
            at = torch.load(folder / "last.pt", weights_only=True)["position"]
            positions.append((at["epoch"], at["batch"]))
    print(positions)
    assert len(set(positions)) > 4, "the kills did not hit the run at different places"
    succeed("train_cifar.py", "--resume", folder, log=tmp_path / "log")
    assert_same_weights(whole, folder)
    pd.testing.assert_frame_equal(metrics(whole), metrics(folder))
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_after_a_checkpoint_and_says_how_to_go_on(tmp_path, number):
    long = [*TINY, "--epochs", "12"]
    succeed("train_cifar.py", *long, "--out", tmp_path / "whole", log=tmp_path / "log")
    script = Script("train_cifar.py", *long, "--out", tmp_path / "run", log=tmp_path / "log")
    script.wait_for("epoch 2/")
    script.send(number)
    done = script.wait()
    assert done.code == 128 + number
    assert f"--resume {tmp_path / 'run'}" in done.out and "Traceback" not in done.err
    assert not (tmp_path / "run" / "model.pt").exists()
    succeed("train_cifar.py", "--resume", tmp_path / "run", log=tmp_path / "log")
    assert_same_weights(tmp_path / "whole", tmp_path / "run")
    assert metrics(tmp_path / "run").epoch.tolist() == list(range(1, 13))


def damage(path, how):
    content = path.read_bytes()
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "a flipped bit":
        with zipfile.ZipFile(path) as archive:
            largest = max(archive.infolist(), key=lambda info: info.file_size)
        name, extra = struct.unpack_from("<HH", content, largest.header_offset + 26)
        place = largest.header_offset + 30 + name + extra + largest.file_size // 2
        content = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    elif how == "empty":
        content = b""
    path.unlink()  # best.pt may be the same file
    path.write_bytes(content)
    if how == "foreign":
        torch.save({"state_dict": {}}, path)
    elif how == "foreign pickle":
        torch.save(torch.nn.Linear(2, 2), path)


@pytest.mark.parametrize(
    "how", ["truncated", "a flipped bit", "empty", "foreign", "foreign pickle"]
)
def test_a_damaged_checkpoint_is_refused_and_the_previous_one_works(whole, tmp_path, how):
    folder = shutil.copytree(whole, tmp_path / "run")
    damage(folder / "last.pt", how)
    error = run("train_cifar.py", "--resume", folder, log=tmp_path / "log").error
    assert str(folder / "last.pt") in error and f"--resume {folder / 'previous.pt'}" in error
    if how == "truncated":
        (folder / "model.pt").unlink()
        succeed("train_cifar.py", "--resume", folder / "previous.pt", log=tmp_path / "log")
        assert_same_weights(whole, folder)


def test_no_checkpoint_other_script_other_settings_other_data(whole, tmp_path):
    log = tmp_path / "log"
    error = run("train_cifar.py", "--resume", tmp_path / "none", log=log).error
    assert "there is no checkpoint" in error
    error = run("train_dvs.py", "--resume", whole, log=log).error
    assert "was written by train_cifar.py" in error
    error = run("train_cifar.py", "--resume", whole, "--seed", "5", log=log).error
    assert "--seed 5 contradicts" in error and "started with 0" in error and "order" in error
    error = run("train_cifar.py", "--resume", whole, "--lr", "0.5", log=log).error
    assert "all of its 3 epochs" in error and "--epochs" in error
    error = run("train_cifar.py", "--resume", whole, "--epochs", "2", log=log).error
    assert "has 3 epochs already" in error
    error = run("train_cifar.py", "--resume", whole, "--out", tmp_path, log=log).error
    assert "--out contradicts --resume" in error
    error = run("train_cifar.py", *TINY, "--out", whole, log=log).error
    assert f"--resume {whole}" in error
    again = succeed("train_cifar.py", "--resume", whole, "--lr", "0.1", "--workers", "0", log=log)
    assert "last epoch" in again.out  # a finished run only writes its results again


def limit_file_size(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(whole, tmp_path):
    log = tmp_path / "log"
    size = (whole / "last.pt").stat().st_size
    folder = tmp_path / "run"
    before = partial(limit_file_size, size // 2)
    error = run("train_cifar.py", *RUN, "--out", folder, log=log, before=before).error
    assert "last.pt" in error and "make room" in error
    assert not list(folder.glob("*.pt")) and not list(folder.glob(".*.tmp"))

    script = Script(
        "train_cifar.py", *RUN, "--out", folder, log=log, before=partial(die_in, "fsync", 9)
    )
    script.process.join()
    assert (folder / "last.pt").exists()
    error = run("train_cifar.py", "--resume", folder, log=log, before=before).error
    assert f"--resume {folder}" in error
    assert not list(folder.glob(".*.tmp"))
    succeed("train_cifar.py", "--resume", folder, log=log)
    assert_same_weights(whole, folder)


ON_A_SMALL_DISK = """
mount -t tmpfs -o size=$1 tmpfs "$2" || exit 77
shift 2
"$@"
code=$?
cp -r small/run copy && exit $code
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs Linux")
@pytest.mark.parametrize("size", ["20k", "110k", "160k"])
def test_a_disk_that_fills_up_leaves_a_checkpoint_that_goes_on_elsewhere(whole, tmp_path, size):
    (tmp_path / "small").mkdir()
    command = ["unshare", "-rm", "sh", "-c", ON_A_SMALL_DISK, "sh", size, str(tmp_path / "small")]
    command += [sys.executable, str(EXAMPLES / "train_cifar.py"), *RUN, "--out", "small/run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("may not mount a disk of its own: " + done.stderr)
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: cannot write"), done.stderr
    copy = tmp_path / "copy"
    assert not list(copy.glob(".*.tmp"))
    if size == "20k":
        assert not list(copy.glob("*.pt"))
        return
    succeed("train_cifar.py", "--resume", copy, log=tmp_path / "log")
    assert_same_weights(whole, copy)
