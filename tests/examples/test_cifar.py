"""train_cifar.py and existing_code.py: data sets, models, methods, and what a run leaves behind."""

import argparse
import gzip
import hashlib
import importlib
import json
import pickle
import struct
import sys
import tarfile
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from spikingjelly.activation_based import functional

from tests.examples.tools import EXAMPLES, TINY, assert_same_weights, shared, succeed, weights


@pytest.fixture
def example_modules(monkeypatch):
    """Import the scripts' modules as they do each other's."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


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
                archive.extract(member, root, filter="data")
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
    flags += "--method evolutionary --hold 0 --finish 0.75".split()
    done = succeed("train_cifar.py", *flags, "--out", folder, log=tmp_path / "log")
    assert {path.name for path in folder.iterdir()} == set(
        "config.json metrics.csv tensorboard last.pt previous.pt best.pt model.pt curves.png "
        "gradients gradients.png".split()
    )
    config = json.loads((folder / "config.json").read_text())
    assert config["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__
    assert config["heads"] == ["2", "5"] and config["train_samples"] == 100

    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics.epoch.tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(metrics["lambda"], [1, 2 / 3, 1 / 3, 0], atol=1e-12)
    assert metrics.loss_2.notna().tolist() == [True, True, True, False]
    total = metrics.loss_main + metrics["lambda"] * (metrics.loss_2 + metrics.loss_5).fillna(0)
    np.testing.assert_allclose(total, metrics.loss, rtol=1e-6)
    shares = metrics.filter(like="accuracy")
    assert list(shares) == ["train_accuracy", "test_accuracy", "head_accuracy_2", "head_accuracy_5"]
    assert ((shares >= 0) & (shares <= 1)).all(axis=None)
    assert list(folder.glob("tensorboard/events*"))
    assert [path.name for path in sorted(folder.glob("gradients/*"))] == [
        "epoch-0002.csv",
        "epoch-0004.csv",
    ]
    assert "last epoch" in done.out and "head 2" in done.out

    # model.pt fits a model that was never wrapped, and is as good as the summary says.
    options, models = example_modules("options"), example_modules("models")
    args = options.parse(example_modules("train_cifar").build_parser(), flags)
    model = models.build(args, num_classes=10, in_channels=1)
    model.load_state_dict(weights(folder), strict=True)
    test = example_modules("static_data").load(args).test
    model.eval()
    x = torch.stack([x for x, _ in test])
    y = torch.tensor([y for _, y in test])
    with torch.no_grad():
        share = (model(x.repeat(2, 1, 1, 1, 1)).mean(0).argmax(1) == y).double().mean().item()
    assert share == metrics.test_accuracy.iloc[-1]


METHODS = [
    "--method vanilla",
    "--method vanilla --per-step",
    "--method shortcut --lambda-start 0.5 --per-step --at all",
    "--method evolutionary --combine logits --schedule cosine --at 1",
    "--method evolutionary --schedule step --step-mode s --surrogate rectangle",
    "--method evolutionary --schedule exponential --combine logits --step-mode s --at 2,5",
    "--method evolutionary --combine logits --per-step",
    "--optimizer adamw --warmup-epochs 1 --amp bf16 --channels-last",
    "--method handover --per-step --at 1",
    "--norm tdbn --crop --flip --cutout 3 --image-size 12",
    "--model resnet20 --width 4 --batch-size 50 --image-size 32",
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


MODELS = [
    *("plain:4", "plain:18", "resnet18", "resnet19", "resnet20", "spiking_resnet18"),
    *("sew_resnet18", "spiking_vgg11_bn", "plif_cifar10", "plif_cifar10dvs", "plif_nmnist"),
]


@pytest.mark.parametrize("name", MODELS)
def test_each_model_takes_heads(example_modules, name):
    models, building = example_modules("models"), example_modules("building")
    parser = example_modules("train_cifar").build_parser()
    args = example_modules("options").parse(parser, ["--model", name, "--T", "2"])
    channels, size = {"plif_cifar10dvs": (2, 128), "plif_nmnist": (2, 34)}.get(name, (3, 32))
    if not name.startswith(("spiking_", "sew_", "plif_")):
        args.width = 8
    model = models.build(args, 10, channels)
    depth = sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in model.modules())
    if name.startswith("plain"):
        assert depth == int(name.removeprefix("plain:"))
    x = torch.rand(1, channels, size, size)
    over_time = building.OverTime(model, 2, "m")
    building.check_output(model, over_time, x, 10, args)
    building.add_method(args, model, over_time.steps(x), 10)
    with torch.no_grad():
        assert over_time(x).shape == (2, 1, 10)
    functional.reset_net(model)


def test_both_surrogates_are_what_the_help_says(example_modules):
    models = example_modules("models")
    x = torch.tensor([-0.75, -0.25, 0.25, 0.75], requires_grad=True)
    for name, expected in (("triangle", [0.25, 0.75, 0.75, 0.25]), ("rectangle", [0, 1, 1, 0])):
        args = argparse.Namespace(surrogate=name, decay=0.25, threshold=0.5)
        spike = models.neuron_settings(args)["surrogate_function"](x)
        assert spike.tolist() == [0, 0, 1, 1]
        (grad,) = torch.autograd.grad(spike.sum(), x)
        assert grad.tolist() == expected


def test_a_model_of_the_users_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "from spikingjelly.activation_based import layer, neuron\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(layer.Flatten(), layer.Linear(64, 16), neuron.LIFNode(),\n"
        "        layer.Linear(16, 12), neuron.LIFNode(), layer.Linear(12, num_classes))\n"
    )
    flags = [*TINY[:2], *TINY[6:], "--model", "mine:net", "--epochs", "1", "--step-mode", "s"]
    args = [*flags, "--out", tmp_path / "run"]
    done = succeed("train_cifar.py", *args, log=tmp_path / "log", cwd=tmp_path)
    assert "heads at 2" in done.out


# torchvision's own readers, on small archives in the genuine formats


def pattern(label, rng, shape):
    """An image that tells its class by its brightness."""
    return (rng.integers(0, 60, shape) + 19 * label).astype(np.uint8)


def cifar_archive(path, folder, files, meta, keys):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {**files, **meta}.items():
            source = path.with_name("entry")
            source.write_bytes(pickle.dumps(content, protocol=2))
            archive.add(source, f"{folder}/{name}")


def make_cifar(root, classes):
    rng = np.random.default_rng(0)
    labels = list(range(10)) * 2 if classes == 10 else list(range(0, 100, 5))

    def batch():
        images = np.stack([pattern(label * 10 // classes, rng, 3072) for label in labels])
        if classes == 10:
            return {"data": images, "labels": labels, "batch_label": "b", "filenames": []}
        coarse = [label // 5 for label in labels]
        return {"data": images, "fine_labels": labels, "coarse_labels": coarse, "filenames": []}

    if classes == 10:
        names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
        meta = {"batches.meta": {"label_names": [f"class {i}" for i in range(10)]}}
        folder, file = "cifar-10-batches-py", "cifar-10-python.tar.gz"
    else:
        names = ["train", "test"]
        meta = {"meta": {"fine_label_names": [f"class {i}" for i in range(100)]}}
        folder, file = "cifar-100-python", "cifar-100-python.tar.gz"
    root.mkdir()
    cifar_archive(root / file, folder, {name: batch() for name in names}, meta, None)
    return partial(expect_cifar, root / file, f"CIFAR{classes}")


def expect_cifar(path, name):
    """Tell torchvision the checksums of this archive; everything else in it stays as it is."""
    from torchvision import datasets

    kind = getattr(datasets, name)

    def md5(content):
        return hashlib.md5(content).hexdigest()

    with tarfile.open(path) as archive:
        sums = {
            member.name.split("/")[1]: md5(archive.extractfile(member).read()) for member in archive
        }
    kind.tgz_md5 = md5(path.read_bytes())
    kind.train_list = [[file, sums[file]] for file, _ in kind.train_list]
    kind.test_list = [[file, sums[file]] for file, _ in kind.test_list]
    kind.meta = {**kind.meta, "md5": sums[kind.meta["filename"]]}


NET = "--model plain:4 --width 4 --T 1 --epochs 1 --batch-size 10 --workers 0".split()


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_in_its_binary_format(tmp_path, classes):
    before = make_cifar(tmp_path / "data", classes)
    flags = ["--dataset", f"cifar{classes}", "--data-dir", tmp_path / "data", *NET]
    flags += ["--crop", "--flip", "--autoaugment", "--cutout", "16", "--out", tmp_path / "run"]
    done = succeed("train_cifar.py", *flags, log=tmp_path / "log", before=before)
    images = {10: "100 training and 20 test", 100: "20 training and 20 test"}[classes]
    assert images in done.out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["classes"][:2] == ["class 0", "class 1"] and len(config["classes"]) == classes


def make_fashion_mnist(root, images=60):
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, number in (("train", images), ("t10k", 20)):
        labels = np.arange(number, dtype=np.uint8) % 10
        pixels = np.stack([pattern(label, rng, (28, 28)) for label in labels])
        header = struct.pack(">IIII", 0x803, number, 28, 28)
        for name, content in (
            (f"{part}-images-idx3-ubyte", header + pixels.tobytes()),
            (f"{part}-labels-idx1-ubyte", struct.pack(">II", 0x801, number) + labels.tobytes()),
        ):
            (raw / name).write_bytes(content)
            (raw / f"{name}.gz").write_bytes(gzip.compress(content))


def test_fashion_mnist_and_the_code_that_adopts_in_three_lines(tmp_path):
    make_fashion_mnist(tmp_path / "data")
    flags = ["--dataset", "fashion-mnist", "--data-dir", tmp_path / "data", *NET]
    succeed("train_cifar.py", *flags, "--out", tmp_path / "run", log=tmp_path / "log")
    flags = [
        "-data-dir",
        tmp_path / "data",
        "-T",
        "2",
        "-epochs",
        "3",
        "-b",
        "20",
        "-channels",
        "4",
    ]
    done = succeed("existing_code.py", *flags, log=tmp_path / "log")
    assert done.out.count("epoch = ") == 3 and "shortcut_head" not in done.out


def test_existing_code_marks_three_lines_and_runs_without_them(tmp_path):
    source = (EXAMPLES / "existing_code.py").read_text()
    marked = [line for line in source.splitlines() if "# <- " in line]
    assert [line[-6:] for line in marked] == ["1 of 3", "2 of 3", "3 of 3"]
    plain = source
    for line in marked:
        plain = plain.replace(line + "\n", "")
    plain = plain.replace("# Without shortcuts: criterion", "criterion")
    plain = plain.replace("    net = remove_shortcuts(net)\n", "")
    make_fashion_mnist(tmp_path / "data")
    (tmp_path / "plain.py").write_text(plain)
    flags = [
        "-data-dir",
        tmp_path / "data",
        "-T",
        "1",
        "-epochs",
        "1",
        "-b",
        "20",
        "-channels",
        "4",
    ]
    succeed(tmp_path / "plain.py", *flags, log=tmp_path / "log")
