"""train_cifar.py: methods, models and data sets by flags, and what a run leaves behind."""

import json
import os
import tarfile
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from sj_shortcut import ShortcutLoss
from tests.examples.data_sets import extract
from tests.examples.scripts import TINY, Script, assert_same_weights, shared, succeed, weights
from tests.nets.small import skip_unless_neurons_compile


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """The first images of each class of real CIFAR-10."""
    root = tmp_path_factory.mktemp("cifar10")
    wanted = {"train": 60, "test": 30}
    taken = {}
    with tarfile.open(shared("cifar10.tar.xz")) as archive:
        for member in archive:
            part = member.name.split("/")[1:3]
            if member.isfile() and taken.get(tuple(part), 0) < wanted[part[0]]:
                taken[tuple(part)] = taken.get(tuple(part), 0) + 1
                extract(archive, member, root)
    return root / "cifar10"


def test_real_cifar10_is_learned(cifar10, tmp_path):
    flags = "--model plain:6 --width 12 --T 2 --optimizer adamw --lr 0.005 --epochs 4".split()
    flags += "--image-size 16 --batch-size 15 --workers 0 --crop --flip".split()
    flags += "--dataset folder".split()
    flags += ["--data-dir", cifar10, "--out", tmp_path / "run"]
    succeed("train_cifar.py", *flags, log=tmp_path / "log")
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert metrics.test_accuracy.max() > 0.16  # chance is 0.1, with 300 images give or take 0.017


def test_what_a_run_leaves_behind(tmp_path, example_modules):
    folder = tmp_path / "run"
    flags = [*TINY, "--epochs", "4", "--gradients-every", "2"]
    flags += "--method evolutionary --combine loss --lambda-start 1 --finish 0.75".split()
    done = succeed("train_cifar.py", *flags, "--out", folder, log=tmp_path / "log")
    assert {path.name for path in folder.iterdir()} == set(
        "config.json metrics.csv tensorboard last.pt previous.pt best.pt model.pt curves.png "
        "gradients gradients.png spikes.csv spikes.png .lock".split()
    )
    config = json.loads((folder / "config.json").read_text())
    assert config["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__
    assert config["heads"] == ["2", "5"] and config["train_samples"] == 100

    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics.epoch.tolist() == [1, 2, 3, 4]
    # λ falls at each of 15 steps; of an epoch, that of its last of 5 is told.
    np.testing.assert_allclose(metrics["lambda"], [11 / 15, 6 / 15, 1 / 15, 0], atol=1e-12)
    assert metrics.loss_2.notna().tolist() == [True, True, True, False]
    of_heads = (metrics.loss_2 + metrics.loss_5).fillna(0)
    share = (metrics.loss - metrics.loss_main) / of_heads.where(of_heads > 0)
    assert share[:3].between(metrics["lambda"][:3], metrics["lambda"][:3] + 4 / 15).all()
    assert metrics.loss.iloc[3] == pytest.approx(metrics.loss_main.iloc[3], rel=1e-12)
    shares = metrics.filter(like="accuracy")
    assert list(shares) == ["train_accuracy", "test_accuracy", "head_accuracy_2", "head_accuracy_5"]
    assert ((shares >= 0) & (shares <= 1)).all(axis=None)
    spikes = pd.read_csv(folder / "spikes.csv")
    assert spikes.epoch.unique().tolist() == [1, 4] and (spikes.samples == 32).all()
    last = spikes[spikes.epoch == 4]
    for name in ("spikes", "synops"):
        assert (
            metrics[name].iloc[-1] == pytest.approx(last[name].sum()) and (metrics[name] > 0).all()
        )
    assert list(folder.glob("tensorboard/events*"))
    assert [path.name for path in sorted(folder.glob("gradients/*"))] == [
        "epoch-0002.csv",
        "epoch-0004.csv",
    ]
    assert "last epoch" in done.out and "head 2" in done.out

    # model.pt fits a model that was never wrapped, and is as good as the summary says.
    settings, models = example_modules("trainer.settings"), example_modules("trainer.models")
    args = settings.parse(example_modules("train_cifar").build_parser(), flags)
    model = models.build(args, num_classes=10, in_channels=1)
    model.load_state_dict(weights(folder), strict=True)
    test = example_modules("trainer.images").load(args).test
    model.eval()
    x = torch.stack([x for x, _ in test])
    y = torch.tensor([y for _, y in test])
    with torch.no_grad():
        share = (model(x.repeat(2, 1, 1, 1, 1)).mean(0).argmax(1) == y).double().mean().item()
    assert share == metrics.test_accuracy.iloc[-1]


def test_losses_add_up(tmp_path):
    flags = [*TINY, "--epochs", "2"]
    flags += "--method shortcut --combine loss --lambda-start 0.5".split()
    succeed("train_cifar.py", *flags, "--out", tmp_path / "run", log=tmp_path / "log")
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert metrics["lambda"].tolist() == [0.5, 0.5]
    total = metrics.loss_main + 0.5 * (metrics.loss_2 + metrics.loss_5)
    np.testing.assert_allclose(total, metrics.loss, rtol=1e-6)


def write_each_coefficient(path, die_at):
    """Write λ of each training step to a file; in the step before which `die_at` are done, die."""
    forward, done = ShortcutLoss.forward, []

    def noted(self, output, target):
        done.append(self.schedule.coefficient)
        path.write_text(json.dumps(done))
        if len(done) > die_at:
            os._exit(9)
        return forward(self, output, target)

    ShortcutLoss.forward = noted


def test_the_papers_coefficient_at_every_step_resumed_in_the_middle_of_an_epoch(tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    flags = [*TINY, "--epochs", "3", "--checkpoint-every", "1", "--method", "evolutionary"]
    before = partial(write_each_coefficient, tmp_path / "first", die_at=7)
    script = Script("train_cifar.py", *flags, "--out", folder, log=log, before=before)
    assert script.wait().code == 9
    before = partial(write_each_coefficient, tmp_path / "second", die_at=99)
    succeed("train_cifar.py", "--resume", folder, log=log, before=before)
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("first", "second"))
    expected = [0.25 * (1 - i / 15) for i in range(15)]
    assert first == pytest.approx(expected[:8], abs=1e-12)
    assert second == pytest.approx(expected[7:], abs=1e-12)
    config = json.loads((folder / "config.json").read_text())
    papers = {"at": "stages", "grid": 1, "combine": "logits", "lambda_start": 0.25}
    papers |= {"lambda_end": 0, "hold": 0, "finish": 1, "schedule": "linear"}
    assert {name: config[name] for name in papers} == papers


METHODS = [
    "--method vanilla",
    "--method vanilla --per-step",
    "--method shortcut --lambda-start 0.5 --per-step --at all",
    "--method shortcut",
    "--method evolutionary --schedule cosine --at 1 --grid 2",
    "--method evolutionary --combine loss --schedule step --step-mode s --surrogate rectangle",
    "--method evolutionary --schedule exponential --step-mode s --at 2,5 --hold 0.3",
    "--method evolutionary --per-step",
    "--optimizer adamw --warmup-epochs 1 --amp bf16 --channels-last",
    "--method handover --per-step --at 1",
    "--norm tdbn --crop --flip --cutout 3 --image-size 12",
    "--model resnet20 --width 4 --batch-size 50 --image-size 32",
    "--model resnet34 --width 2 --method evolutionary --decay 0.5 --threshold 1 --optimizer adamw",
    "--model resnet19 --width 4 --batch-size 50 --norm tdbn",
]


@pytest.mark.parametrize("flags", METHODS)
def test_flags_train(tmp_path, flags):
    args = [*TINY, *flags.split(), "--epochs", "2", "--out", tmp_path / "run"]
    succeed("train_cifar.py", *args, log=tmp_path / "log")
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert np.isfinite(metrics.loss).all() and (tmp_path / "run" / "model.pt").exists()
    if "--warmup-epochs" in flags:
        assert metrics.lr.iloc[0] == pytest.approx(1e-3)


def compile_without_a_compiler():
    """Trace and differentiate as torch.compile does, but run the result without C++."""
    torch.compile = partial(torch.compile, backend="aot_eager")


def test_compiled_training_is_the_same_training(tmp_path):
    skip_unless_neurons_compile()
    flags = [*TINY, "--epochs", "1", "--batch-size", "100", "--T", "1", "--at", "1"]
    log = tmp_path / "log"
    succeed("train_cifar.py", *flags, "--out", tmp_path / "plain", log=log)
    flags += ["--compile", "--out", tmp_path / "run"]
    succeed("train_cifar.py", *flags, log=log, before=compile_without_a_compiler)
    one, other = weights(tmp_path / "plain"), weights(tmp_path / "run")
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4, msg=name)


def test_a_vanilla_and_a_wrapped_run_start_from_the_same_weights(tmp_path):
    for method in ("vanilla", "shortcut"):
        folder = tmp_path / method
        flags = [*TINY, "--epochs", "1", "--lr", "0", "--method", method, "--out", folder]
        succeed("train_cifar.py", *flags, log=tmp_path / "log")
    assert_same_weights(tmp_path / "vanilla", tmp_path / "shortcut")


def test_clipped_gradients_bound_each_step(tmp_path):
    flags = [*TINY, "--epochs", "1", "--momentum", "0", "--weight-decay", "0"]
    for name, changes in {
        "start": ["--lr", "0"],
        "free": ["--lr", "0.1"],
        "loose": ["--lr", "0.1", "--clip-grad", "1e6"],
        "tight": ["--lr", "0.1", "--clip-grad", "0.01"],
    }.items():
        folder = tmp_path / name
        succeed("train_cifar.py", *flags, *changes, "--out", folder, log=tmp_path / "log")
    assert_same_weights(tmp_path / "free", tmp_path / "loose")
    steps = 5  # 100 images in batches of 20
    assert moved(tmp_path / "start", tmp_path / "tight") <= steps * 0.1 * 0.01
    assert moved(tmp_path / "start", tmp_path / "free") > steps * 0.1 * 0.01


def moved(one, other):
    one, other = weights(one), weights(other)
    learned = [name for name in one if "running" not in name and "num_batches" not in name]
    return torch.cat([(one[name] - other[name]).flatten() for name in learned]).norm().item()
