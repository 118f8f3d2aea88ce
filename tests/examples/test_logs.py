"""What a run says while it trains, wherever that goes."""

import json
import os
import signal
import subprocess
import sys

import pandas as pd
import pytest

from tests.examples.scripts import EXAMPLES, HANG, TINY, Script, run, succeed

FLAGS = [*TINY, "--epochs", "2"]


def test_the_loss_of_the_output_stands_apart_and_the_heads_are_named_at_the_start(tmp_path):
    done = succeed("train_cifar.py", *FLAGS, "--out", tmp_path / "run", log=tmp_path / "log")
    rows = pd.read_csv(tmp_path / "run" / "metrics.csv")
    lines = [line for line in done.out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    for line, (_, row) in zip(lines, rows.iterrows(), strict=True):
        assert f"loss {row.loss_main:.4f} ({row.loss:.4f} with heads)" in line
    # Of 4 and 8 channels, to 10 classes, with biases; 2 x 2 parts would be too many weights.
    heads = (4 + 1) * 10 + (8 + 1) * 10
    assert f"2 heads at 2, 5: {heads} parameters more" in done.out
    vanilla = [*FLAGS, "--method", "vanilla", "--out", tmp_path / "vanilla"]
    done = succeed("train_cifar.py", *vanilla, log=tmp_path / "log")
    assert "with heads" not in done.out and "no heads" in done.out


def test_a_line_an_epoch_reaches_a_file_at_once(tmp_path):
    long = [*TINY, "--epochs", "1000"]
    script = Script("train_cifar.py", *long, "--out", tmp_path / "run", log=tmp_path / "log")
    for epoch in (1, 2, 3):
        script.wait_for(f"epoch {epoch}/1000")
    script.process.kill()
    script.process.join()


def fresh(*args, cwd, **env):
    """A new interpreter, with an environment as bare as may be."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, EXAMPLES / "train_cifar.py", *args],
        cwd=cwd, env={**kept, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_console_that_knows_no_greek_does_not_end_a_run(tmp_path):
    process = fresh(*FLAGS, "--out", "run", cwd=tmp_path, PYTHONIOENCODING="cp1252")
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == 0, err
    assert rb"epoch 2/2  \u03bb" in out
    assert (tmp_path / "run" / "model.pt").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_paths_need_not_be_utf8_and_a_console_may_know_ascii_only(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    process = fresh(*FLAGS, "--out", name, cwd=tmp_path, PYTHONIOENCODING="ascii")
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == 0, err
    assert rb"epoch 2/2  \u03bb" in out
    folder = tmp_path / name
    assert json.loads((folder / "config.json").read_text())["out"] == name
    more = ["--resume", name, "--epochs", "3"]
    done = succeed("train_cifar.py", *more, log=tmp_path / "log", cwd=tmp_path)
    assert "epoch 3/3" in done.out


@pytest.mark.parametrize("imported", ["trainer.early", "numpy", "torch.nn", "trainer.models"])
def test_ctrl_c_before_the_training_begins_is_one_line(tmp_path, imported):
    long = [*TINY, "--epochs", "100000", "--out", "run"]
    env = {"PYTHONPROFILEIMPORTTIME": "1", "PYTHONWARNINGS": "ignore"}
    process = fresh(*long, cwd=tmp_path, **env)
    said = []
    for line in process.stderr:
        if not line.startswith(b"import time:"):
            said.append(line)
        elif line.split(b"|")[-1].strip() == imported.encode():
            process.send_signal(signal.SIGINT)
    assert process.wait(HANG) == 128 + signal.SIGINT
    out = process.stdout.read().splitlines()
    if out:  # this process was so slow to send it that the training had begun
        assert out[-1].endswith(b"--resume run") and said == []
    else:
        assert said == [b"stopped while nothing was trained\n"]


# Training longer


def test_more_epochs_stretch_the_schedules_of_what_is_left(tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    flags = [*FLAGS, "--method", "evolutionary", "--out", folder]
    succeed("train_cifar.py", *flags, log=log)
    done = succeed("train_cifar.py", "--resume", folder, "--epochs", "4", log=log)
    assert "--epochs 2 -> 4" in done.out and "epoch 4/4" in done.out
    assert "λ go on as in a training of 4 epochs, the former with 0.05\n" in done.out
    rows = pd.read_csv(folder / "metrics.csv")
    assert rows.epoch.tolist() == [1, 2, 3, 4]
    # A line to 0 over 2, then over 4 epochs of 5 steps; of each epoch, λ of its last step.
    left = [6 / 10, 1 / 10, 6 / 20, 1 / 20]
    assert rows["lambda"].tolist() == pytest.approx([0.25 * share for share in left])
    assert rows.lr.iloc[1] == 0 and rows.lr.iloc[3] == 0
    assert rows.lr.iloc[2] == pytest.approx(0.1 * (1 + 2**-0.5 * -1) / 2)
    config = json.loads((folder / "config.json").read_text())
    assert config["epochs"] == 4
    assert config["changes"] == [{"epoch": 3, "batch": 0, "epochs": [2, 4]}]


def test_what_changes_nothing_of_the_past_may_change_and_the_rest_says_why(tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    succeed("train_cifar.py", *FLAGS, "--out", folder, log=log)
    flags = "--epochs 3 --weight-decay 0.01 --clip-grad 1 --momentum 0.5 --amp bf16".split()
    done = succeed("train_cifar.py", "--resume", folder, *flags, log=log)
    config = json.loads((folder / "config.json").read_text())
    for name, change in {"weight_decay": [0.0001, 0.01], "momentum": [0.9, 0.5]}.items():
        assert config["changes"][0][name] == change
        assert f"--{name.replace('_', '-')} {change[0]} -> {change[1]}" in done.out
    for flags, why in {
        "--width 8": "weights would mean something else",
        "--method vanilla": "heads",
        "--optimizer adamw": "optimizer",
        "--batch-size 10": "order of the batches",
        "--T 3": "could not be compared",
    }.items():
        error = run("train_cifar.py", "--resume", folder, *flags.split(), log=log).error
        assert "contradicts" in error and why in error
