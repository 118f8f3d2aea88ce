"""Losses and gradients that are not finite: noticed at their step, and nothing of them is saved."""

import json
import re
import shlex

import pandas as pd
import pytest
import torch

from tests.examples.scripts import TINY, assert_same_weights, run, succeed

# A user's model whose loss, gradient or statistics go wrong at the steps named in its buffer.
POISONED = """
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

BAD_STEPS = {steps}


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bad):
        ctx.bad = bad
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return (grad * float("nan") if ctx.bad else grad), None


class Poison(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        bad = self.training and self.calls in BAD_STEPS
        self.calls += self.training
        if {where!r} != "gradient" and bad:
            return x * float("inf")
        return Backward.apply(x, bad)


def net():
    layers = [
        layer.BatchNorm2d(1), layer.Flatten(), layer.Linear(64, 16), neuron.LIFNode(),
        layer.Linear(16, 12), neuron.LIFNode(), layer.Linear(12, 10),
    ]
    layers.insert(0 if {where!r} == "statistics" else 7, Poison())
    return nn.Sequential(*layers)
"""
OWN = [*TINY[:2], *TINY[6:], "--epochs", "2", "--checkpoint-every", "1", "--at", "1"]


def write_model(folder, where, steps):
    (folder / "mine.py").write_text(POISONED.format(where=where, steps=steps))
    return [*OWN, "--model", "mine:net"]


def assert_finite(folder):
    files = list(folder.glob("*.pt"))
    assert files
    for path in files:
        state = torch.load(path, weights_only=True)
        for name, value in state.get("model", state).items():
            assert torch.isfinite(value).all(), (path.name, name)


@pytest.mark.parametrize("every", ["0", "1"])
def test_a_diverging_training_ends_at_its_step_and_goes_on_from_before_as_advised(tmp_path, every):
    folder, log = tmp_path / "run", tmp_path / "log"
    args = [*TINY, "--lr", "1e30", "--epochs", "4", "--checkpoint-every", every, "--out", folder]
    error = run("train_cifar.py", *args, log=log).error
    assert "not finite in epoch 1, step 2" in error and "--clip-grad 1" in error
    assert not (folder / "model.pt").exists()
    assert_finite(folder)

    advised = shlex.split(re.search(r"--resume (\S+) and, say, (--lr \S+),", error)[0][:-1])
    advised = [word for word in advised if word not in ("and,", "say,")]
    assert advised[-1] == "0.01"
    done = succeed("train_cifar.py", *advised, log=log)
    assert "--lr 1e+30 -> 0.01" in done.out
    assert_finite(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["lr"] == 0.01
    assert config["changes"] == [{"epoch": 1, "batch": 0, "lr": [1e30, 0.01]}]
    rows = pd.read_csv(folder / "metrics.csv")
    assert rows.epoch.tolist() == [1, 2, 3, 4]
    # It is, to the bit, the training at that rate from there on, and the change is the run's.
    succeed("train_cifar.py", *args[:-1], tmp_path / "fine", "--lr", "0.01", log=log)
    assert_same_weights(folder, tmp_path / "fine")
    again = succeed("train_cifar.py", "--resume", folder, log=log)
    assert "changed from" not in again.out


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("loss", "the loss of the output is nan"),
        ("gradient", "the gradient of 6.bias (and of 7 before it)"),
        ("statistics", "the gradient of"),
    ],
)
def test_what_is_not_finite_is_named_with_its_step(tmp_path, where, named):
    args = [*write_model(tmp_path, where, {7}), "--out", tmp_path / "run"]
    done = run("train_cifar.py", *args, log=tmp_path / "log", cwd=tmp_path)
    assert named in done.error, done.err
    assert "epoch 2, step 3" in done.error  # 5 steps an epoch, and the 8th is bad
    assert_finite(tmp_path / "run")
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert (state["position"]["epoch"], state["position"]["batch"]) == (1, 2)


@pytest.mark.parametrize("where", ["loss", "gradient", "statistics"])
def test_bad_steps_can_be_left_out_and_are_counted(tmp_path, where):
    args = [*write_model(tmp_path, where, {3, 6, 7}), "--skip-nonfinite"]
    args += ["--out", tmp_path / "run"]
    done = succeed("train_cifar.py", *args, log=tmp_path / "log", cwd=tmp_path)
    assert_finite(tmp_path / "run")
    rows = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert rows.skipped_steps.tolist() == [1, 2]
    assert "1 step left out" in done.out and "2 steps left out" in done.out
    assert rows.notna().all(axis=None)


def test_leaving_out_changes_nothing_where_nothing_is_bad(tmp_path):
    for name, flags in (("plain", []), ("skipping", ["--skip-nonfinite"])):
        args = [*TINY, "--epochs", "2", *flags, "--out", tmp_path / name]
        succeed("train_cifar.py", *args, log=tmp_path / "log")
    assert_same_weights(tmp_path / "plain", tmp_path / "skipping")


def test_an_epoch_of_bad_steps_alone_is_an_error(tmp_path):
    args = [*write_model(tmp_path, "loss", set(range(5))), "--skip-nonfinite"]
    args += ["--out", tmp_path / "run"]
    error = run("train_cifar.py", *args, log=tmp_path / "log", cwd=tmp_path).error
    assert "every step of epoch 1 was left out" in error


def test_numbers_that_weights_cannot_hold_are_refused_when_read(tmp_path, example_modules):
    parser = example_modules("train_cifar").build_parser()
    for flag in ("--lr", "--weight-decay", "--clip-grad", "--lambda-start", "--threshold"):
        for value in ("1e300", "1e39", "nan", "inf"):
            with pytest.raises(example_modules("trainer.errors").UserError) as error:
                example_modules("trainer.settings").parse(parser, [flag, value])
            assert flag in str(error.value) and value in str(error.value)
            assert "3.4e+38" in str(error.value)
    error = run("train_cifar.py", *TINY, "--lr", "1e300", log=tmp_path / "log", cwd=tmp_path).error
    assert "--lr" in error and "1e300" in error
    assert not (tmp_path / "runs").exists()
