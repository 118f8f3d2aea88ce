"""What users do wrong: one line that names the file or flag and the remedy, and exit code 2."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from tests.examples.data_sets import make_images, no_network
from tests.examples.scripts import EXAMPLES, HANG, TINY, run, succeed

NET = "--model plain:4 --width 4 --T 1 --epochs 1 --batch-size 4 --workers 0".split()


def test_folders(tmp_path):
    log, out = tmp_path / "log", ["--out", tmp_path / "run"]
    root = tmp_path / "data"
    flags = [*make_images(root), *NET, *out]
    succeed("train_cifar.py", *flags, log=log)
    (tmp_path / "run").rename(tmp_path / "good")

    broken = root / "test" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:50])
    for workers in ("0", "1"):
        error = run("train_cifar.py", *flags, "--workers", workers, log=log).error
        assert str(broken) in error and "replace or remove it" in error
        assert sorted(p.name for p in (tmp_path / "run").glob("*.pt")) == ["last.pt"]
        shutil.rmtree(tmp_path / "run")
    broken.write_text("no image")
    assert str(broken) in run("train_cifar.py", *flags, log=log).error

    cases = {
        "missing": ([], ["cat"], "there is no folder", "train"),
        "empty class": (["cat"], ["cat"], "Found no valid file", "train"),
        "only in test": (["cat", "dog"], ["cat", "dog", "emu"], "has no counterpart", "test/emu"),
        "only in train": (["cat", "dog", "emu"], ["cat", "dog"], "has no counterpart", "train/emu"),
    }
    for name, (train, test, text, path) in cases.items():
        other = tmp_path / name
        flags = [*make_images(other, train, test), *NET]
        if name == "empty class":
            (other / "train" / "emu").mkdir()
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        error = run("train_cifar.py", *flags, *out, log=log).error
        assert text in error and str(other / path) in error, error
        assert not list((tmp_path / "run").glob("model.pt"))


@pytest.mark.parametrize(
    ("dataset", "file"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar100", "cifar-100-python.tar.gz"),
        ("fashion-mnist", "train-images-idx3-ubyte"),
    ],
)
def test_offline(tmp_path, dataset, file):
    flags = ["--dataset", dataset, "--data-dir", tmp_path / "data", *NET, "--out", tmp_path / "run"]
    done = run("train_cifar.py", *flags, log=tmp_path / "log", before=no_network)
    error = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.code == 2 and len(error) == 1 and "Traceback" not in done.err
    assert f"{tmp_path / 'data'}" in error[0] and file in error[0]
    assert "--dataset digits" in error[0] and "no network" in error[0]


FLAGS = {
    "--at nowhere": ("--at nowhere", "nowhere"),
    "--at 2,nowhere*": ("--at 2,nowhere*", "nowhere*"),
    "--at 0": ("--at 0", "--at 0"),
    "--method vanilla --at all": ("--at has no effect with --method vanilla",),
    "--method vanilla --lambda-start 1": ("--lambda-start has no effect",),
    "--method shortcut --schedule cosine": ("--schedule has no effect with --method shortcut",),
    "--optimizer adamw --momentum 0.5": ("--momentum is for --optimizer sgd",),
    "--norm tdbn --step-mode s": ("needs --step-mode m",),
    "--method evolutionary --lambda-start 0.1 --lambda-end 0.2": ("--lambda",),
    "--method evolutionary --hold 0.9 --finish 0.5": ("finish",),
    "--schedule cosine": ("--schedule has no effect", "choose --method evolutionary"),
    "--epochs 2 --warmup-epochs 2": ("--warmup-epochs 2",),
    "--fsdp --amp fp16": ("--fsdp does not go with --amp fp16",),
    "--autoaugment": ("--autoaugment is for colour images",),
    "--cutout 8": ("--cutout 8",),
    "--batch-size 1000": ("--batch-size 1000", "lower it"),
    "--epochs 0": ("--epochs", "at least 1"),
    "--lr -1": ("--lr",),
    "--decay 1": ("--decay", "below 1"),
    "--nonsense": ("--nonsense", "--help"),
    "--method handover --combine logits": ("--combine has no effect with --method handover",),
    "--method nonsense": ("--method", "evolutionary"),
    "--model plane:18": ("--model plane:18", "No module named 'plane'"),
    "--model plain:3": ("plain:3", "at least 4"),
    "--model resnet2": ("resnet20",),
    "--model json:dumps": ("--model json:dumps",),
    "--model sew_resnet18 --width 8": ("--width has no effect", "sew_resnet18"),
    "--model plif_cifar10": ("plif_cifar10 cannot run", "1 channels"),
}


@pytest.mark.parametrize("flags", FLAGS)
def test_flags(tmp_path, flags):
    tiny = [*TINY[:2], *TINY[6:]] if "--model" in flags else TINY
    args = [*tiny, *flags.split(), "--out", tmp_path / "run"]
    error = run("train_cifar.py", *args, log=tmp_path / "log").error
    for text in FLAGS[flags]:
        assert text in error
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize("flags", ["--backend cupy", "--backend triton", "--device cuda"])
def test_no_gpu(tmp_path, flags):
    args = [*TINY, *flags.split(), "--out", tmp_path / "run"]
    error = run("train_cifar.py", *args, log=tmp_path / "log").error
    assert flags in error
    assert not list(tmp_path.rglob("*.pt"))


def test_debug_shows_the_traceback(tmp_path):
    args = [*TINY, "--at", "nowhere", "--debug", "--out", tmp_path / "run"]
    done = run("train_cifar.py", *args, log=tmp_path / "log")
    assert done.code == 1 and "Traceback" in done.err


@pytest.mark.parametrize("script", ["train_cifar.py", "train_dvs.py"])
def test_help_of_a_fresh_process_documents_every_flag_with_its_default(script):
    command = [sys.executable, str(EXAMPLES / script), "--help"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=HANG, env={**os.environ, "COLUMNS": "100"}
    )
    assert done.returncode == 0
    flags = done.stdout.split("\n  --")[1:]
    assert len(flags) > 35
    for flag in flags:
        assert "(default: " in " ".join(flag.split()), flag
    assert max(map(len, done.stdout.splitlines())) <= 100
