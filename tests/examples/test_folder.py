"""One folder, one run: two processes, a killed one, files that are nobody's, and folders' names."""

import os
import random
import signal
import socket
import time

import pytest
import torch

from tests.examples.scripts import TINY, Script, assert_same_weights, run, succeed

# Longer than any machine takes until it is stopped.
LONG = [*TINY, "--epochs", "100000", "--checkpoint-every", "1"]


def test_a_folder_in_use_is_refused_until_its_process_ends_however_that_ends(tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    first = Script("train_cifar.py", *LONG, "--workers", "1", "--out", folder, log=log)
    first.wait_for("epoch 1/")
    for args in ([*LONG, "--out", folder], ["--resume", folder]):
        error = run("train_cifar.py", *args, log=tmp_path / "other").error
        if "--resume" in args:
            assert f"process {first.process.pid} on {socket.gethostname()}" in error
            assert "in use" in error and "--out" in error
        else:
            assert "already holds a run" in error
    first.send(signal.SIGKILL)
    first.process.join()
    second = Script("train_cifar.py", "--resume", folder, log=log)
    second.wait_for("epoch ")
    second.send(signal.SIGTERM)
    assert second.wait().code == 128 + signal.SIGTERM


def test_two_that_begin_at_once_in_one_folder_are_one_run(tmp_path):
    folder, short = tmp_path / "run", [*TINY, "--epochs", "3"]
    pair = [
        Script("train_cifar.py", *short, "--out", folder, log=tmp_path / f"log{i}")
        for i in range(2)
    ]
    done = sorted((script.wait() for script in pair), key=lambda d: d.code)
    assert [d.code for d in done] == [0, 2]
    assert "is in use by" in done[1].error or "already holds a run" in done[1].error
    succeed("train_cifar.py", *short, "--out", tmp_path / "alone", log=tmp_path / "log")
    assert_same_weights(folder, tmp_path / "alone")


def test_ten_kills_of_two_processes_in_one_folder_mix_nothing(tmp_path):
    folder = tmp_path / "run"
    rng = random.Random(0)
    before, kept = None, 0
    for _ in range(10):
        # Two of a sweep, or a job that was queued again: both want the folder, at other rates.
        pair = []
        for i, lr in enumerate(("0.1", "0.05")):
            flags = ["--resume", folder] if before else [*LONG, "--out", folder, "--lr", lr]
            pair.append(Script("train_cifar.py", *flags, log=tmp_path / f"log{i}"))
        working = None
        while working is None:
            for script in pair:
                if script.process.exitcode not in (None, 2):
                    raise AssertionError(script.output(".err"))
                if "epoch " in script.output():
                    working = script
            time.sleep(0.01)
        (refused,) = (script for script in pair if script is not working)
        assert "in use" in refused.wait().err or "already holds" in refused.wait().err
        time.sleep(rng.uniform(0, 0.1))
        working.process.kill()
        working.process.join()
        assert sorted(s.process.exitcode for s in pair) == [-signal.SIGKILL, 2]
        for name in ("previous.pt", "last.pt"):
            state = torch.load(folder / name, weights_only=True)
            if before:
                assert state["settings"] == before["settings"]
            kept += 1
        assert not before or position(state) >= position(before)
        before = state
    assert kept == 20
    # What is there is the run of one process: as far as it came, to the bit.
    epochs = before["position"]["epoch"] + 1
    stop = Script("train_cifar.py", "--resume", folder, log=tmp_path / "log0")
    stop.wait_for(f"epoch {epochs}/")
    stop.send(signal.SIGTERM)
    stop.wait()
    rows = torch.load(folder / "last.pt", weights_only=True)["history"]
    lr = str(before["settings"]["lr"])
    alone = Script(
        "train_cifar.py", *LONG, "--lr", lr, "--out", tmp_path / "alone", log=tmp_path / "log1"
    )
    alone.wait_for(f"epoch {epochs}/")
    alone.send(signal.SIGTERM)
    alone.wait()
    others = torch.load(tmp_path / "alone" / "last.pt", weights_only=True)["history"]
    assert losses(rows)[:epochs] == losses(others)[:epochs]


def position(state):
    return state["position"]["epoch"], state["position"]["batch"]


def losses(rows):
    return [(row["epoch"], row["loss"], row["test_accuracy"]) for row in rows]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"mine"),
        ("model.pt", b"weights of somebody"),
        ("metrics.csv", b"a,b\n1,2\n"),
        ("best.pt", b"PK\x03\x04"),
        (".draft.tmp", b"a draft"),
        (".model.pt.0123abcd.tmp", b"by name, but not by content"),
        (".owner", b"somebody"),
    ],
)
def test_a_folder_with_files_of_others_is_refused_and_left_as_it_was(tmp_path, name, content):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).write_bytes(content)
    error = run("train_cifar.py", *TINY, "--out", folder, log=tmp_path / "log").error
    assert name in error and str(folder) in error and "--out" in error
    assert [path.name for path in folder.iterdir()] == [name]
    assert (folder / name).read_bytes() == content


def test_a_file_in_place_of_the_folder_and_a_parent_that_cannot_hold_one(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        assert str(out) in run("train_cifar.py", *TINY, "--out", out, log=tmp_path / "log").error
    assert (tmp_path / "file").read_text() == "mine"


def test_what_a_killed_process_left_half_written_goes_and_drafts_of_others_stay(tmp_path):
    folder = tmp_path / "run"
    short = [*TINY, "--epochs", "2"]
    succeed("train_cifar.py", *short, "--out", folder, log=tmp_path / "log")
    half = (folder / "last.pt").read_bytes()[:1000]
    ours = {
        ".last.pt.0123abcd.tmp": half,
        ".best.pt.0123abcd.tmp": b"",
        ".metrics.csv.89abcdef.tmp": b"epoch,la",
        ".curves.png.89abcdef.tmp": b"\x89PNG\r\n",
        ".spikes.csv.89abcdef.tmp": b"epoch,lay",
        ".spikes.png.89abcdef.tmp": b"\x89PNG\r\n",
    }
    theirs = {".draft.tmp": b"mine", ".last.pt.0123abcd.tmp.bak": half, ".last.pt.0.tmp": b"mine"}
    theirs |= {".model.pt.0123abcd.tmp": b"my model", ".notes.md.0123abcd.tmp": b"mine"}
    for name, content in (ours | theirs).items():
        (folder / name).write_bytes(content)
    succeed("train_cifar.py", "--resume", folder, log=tmp_path / "log")
    left = {path.name for path in folder.iterdir()}
    assert not left & ours.keys()
    assert {name: (folder / name).read_bytes() for name in theirs} == theirs


def test_runs_of_a_sweep_have_folders_of_their_own(tmp_path):
    short = [*TINY, "--epochs", "1"]
    sweep = [[], ["--lr", "0.05"], ["--lr", "0.01"], ["--at", "1"], ["--at", "2,5"], ["--flip"]]
    pair = []
    for i, flags in enumerate(sweep):
        pair.append(
            Script("train_cifar.py", *short, *flags, log=tmp_path / f"log{i}", cwd=tmp_path)
        )
    for script in pair:
        assert script.wait().code == 0, script.output(".err")
    names = sorted(os.listdir(tmp_path / "runs"))
    assert len(names) == len(sweep)
    assert all(name.startswith("digits-plain-4-handover-seed0-") for name in names)
    assert any("-lr-0.05" in name for name in names) and any("-flip" in name for name in names)
