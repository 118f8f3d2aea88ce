"""A checkpoint is data: it runs no code, and what is not as it was written is refused."""

import random

import pytest
import torch

from tests.examples.scripts import TINY, run, succeed

ONE = [*TINY, "--epochs", "1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    succeed("train_cifar.py", *ONE, "--out", folder / "run", log=folder / "log")
    return folder / "run"


def rewritten(example_modules, source, target, **changes):
    """A checkpoint with other fields and a seal that holds; None takes a field away."""
    checkpoint = example_modules("trainer.checkpoint")
    state = checkpoint.load(source / "last.pt")
    for name, value in changes.items():
        where, key = (state["settings"], name[1:]) if name.startswith("_") else (state, name)
        if value is None:
            del where[key]
        else:
            where[key] = value
    target.mkdir()
    with open(target / "last.pt", "xb+") as file:
        checkpoint.write_sealed(file, state)
    return target


def test_torch_reads_it_without_running_code(finished):
    state = torch.load(finished / "last.pt", weights_only=True)
    assert state["format"] == "sj_shortcut examples"


@pytest.mark.parametrize("model", ["os:abort", "antigravity:fly", "mine:net"])
def test_a_file_cannot_choose_the_code_that_runs(tmp_path, finished, example_modules, model):
    (tmp_path / "mine.py").write_text("open('ran', 'w').close()\ndef net(): pass\n")
    folder = rewritten(example_modules, finished, tmp_path / "run", _model=model)
    log = tmp_path / "log"
    error = run("train_cifar.py", "--resume", folder, log=log, cwd=tmp_path).error
    assert f"--resume {folder} --model {model}" in error
    assert not (tmp_path / "ran").exists()
    other = run("train_cifar.py", "--resume", folder, "--model", "other:one", log=log).error
    assert "--model other:one contradicts" in other


def test_a_model_of_the_users_own_goes_on_where_it_is_named_again(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "from spikingjelly.activation_based import layer, neuron\n"
        "def net():\n"
        "    return nn.Sequential(layer.Flatten(), layer.Linear(64, 16), neuron.LIFNode(),\n"
        "        layer.Linear(16, 12), neuron.LIFNode(), layer.Linear(12, 10))\n"
    )
    own, log = [*ONE[:2], *ONE[6:], "--model", "mine:net"], tmp_path / "log"
    succeed("train_cifar.py", *own, "--out", tmp_path / "run", log=log, cwd=tmp_path)
    more = ["--resume", tmp_path / "run", "--epochs", "2"]
    error = run("train_cifar.py", *more, log=log, cwd=tmp_path).error
    assert "--model mine:net" in error
    done = succeed("train_cifar.py", *more, "--model", "mine:net", log=log, cwd=tmp_path)
    assert "epoch 2/2" in done.out


def test_one_flipped_bit_anywhere_is_refused(tmp_path, finished, example_modules):
    checkpoint = example_modules("trainer.checkpoint")
    errors = example_modules("trainer.errors")
    content = (finished / "last.pt").read_bytes()
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    checkpoint.load(path)
    rng = random.Random(0)
    size = len(content)
    # All of the archive's directory and the seal, and a thousand bits of the rest.
    directory = content.index(b"PK\x01\x02")
    bits = {8 * byte + rng.randrange(8) for byte in range(directory, size)}
    bits |= {rng.randrange(8 * size) for _ in range(1000)}
    for bit in sorted(bits):
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        with pytest.raises(errors.UserError, match=r"damaged|no checkpoint"):
            checkpoint.load(path)
    for length in sorted({rng.randrange(size) for _ in range(100)}):
        path.write_bytes(content[:length])
        with pytest.raises(errors.UserError, match=r"damaged|no checkpoint"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rng": None}, "lacks 'rng'"),
        ({"model": None}, "lacks 'model'"),
        ({"position": [1, 2]}, "has list for 'position'"),
        ({"history": {}}, "has dict for 'history'"),
        ({"settings": "--epochs 3"}, "has str for 'settings'"),
        ({"version": 4}, "a newer version"),
        ({"version": "x"}, "another version"),
        ({"format": "something"}, "no checkpoint of these scripts"),
        ({"script": "train_mnist.py"}, "was written by train_mnist.py"),
        ({"position": {"epoch": "one"}}, "does not fit"),
        ({"position": {}, "history": [{}]}, "does not fit"),
        ({"model": {"weight": 3}}, "does not fit"),
        ({"optimizer": {}}, "does not fit"),
        ({"lr": {}}, "does not fit"),
        ({"schedule": {}}, "does not fit"),
        ({"rng": [{}]}, "does not fit"),
        ({"data": {}}, "does not fit"),
        ({"_lr": "much"}, "--lr"),
        ({"_lr": 1}, "--lr"),
        ({"_flip": 1}, "--flip"),
        ({"_epochs": -5}, "--epochs"),
        ({"_epochs": 2.5}, "--epochs"),
        ({"_method": "magic"}, "--method"),
        ({"_width": None}, "width"),
        ({"_colour": "red"}, "colour"),
        ({"_out": ["a", "b"]}, "--out"),
    ],
)
def test_fields_that_are_missing_or_wrong_are_one_line(
    tmp_path, finished, example_modules, changes, text
):
    folder = rewritten(example_modules, finished, tmp_path / "run", **changes)
    error = run("train_cifar.py", "--resume", folder, log=tmp_path / "log").error
    assert text in error and str(folder / "last.pt") in error
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["last.pt"]
