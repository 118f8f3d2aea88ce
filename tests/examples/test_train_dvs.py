"""train_dvs.py on real N-MNIST events, and on recordings written in the genuine raw formats."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from spikingjelly import datasets
from spikingjelly.datasets.cifar10_dvs import CIFAR10DVS

from tests.examples.data_sets import (
    CLASSES,
    WRITERS,
    aedat2,
    atis,
    events,
    extract,
    make_raw,
    no_network,
    zipped,
)
from tests.examples.scripts import Script, assert_same_weights, run, shared, succeed

NET = "--model plain:4 --width 4 --workers 0 --epochs 1 --batch-size 8".split()


@pytest.mark.parametrize("dataset", WRITERS)
def test_raw_recordings_are_converted_framed_and_trained_on(tmp_path, dataset):
    root, folder = tmp_path / "data", tmp_path / "run"
    before = make_raw(root, dataset)
    flags = ["--dataset", dataset, "--data-dir", root, *NET, "--resize", "12", "--flip", "--roll"]
    flags += ["2", "--split-by", "time", "--frames", "3", "--out", folder]
    done = succeed("train_dvs.py", *flags, log=tmp_path / "log", before=before)
    assert "converting the recordings" in done.out and "making 3 frames" in done.out
    assert len(pd.read_csv(folder / "metrics.csv")) == 1
    assert (folder / "model.pt").exists()

    arrays = sorted((root / "events_np").rglob("*.npz"))
    recorded = {"cifar10-dvs": 100, "dvs128-gesture": 22, "n-caltech101": 30, "n-mnist": 60}
    assert len(arrays) == recorded[dataset]
    frames = root / "frames_number_3_split_by_time"
    for array in arrays[:3]:
        shown = np.load(frames / array.relative_to(root / "events_np"))["frames"]
        written = np.load(array)
        assert shown.shape[:2] == (3, 2) and shown.sum() == len(written["t"])
        t, x, y, p = (written[key][0] for key in "txyp")
        assert shown[0, p, y, x] >= 1
    if dataset == "cifar10-dvs":
        written = np.load(root / "events_np" / "bird" / "cifar10_bird_7.npz")
        for key, values in events(207).items():
            np.testing.assert_array_equal(written[key], values)

    config = json.loads((folder / "config.json").read_text())
    if dataset in ("cifar10-dvs", "n-caltech101"):
        split = json.loads((folder / "split.json").read_text())
        each = 10
        assert len(split["train"]) == len(arrays) * 9 // each
        assert len(split["test"]) == len(arrays) // each
        assert not set(split["train"]) & set(split["test"])
        assert "no official one" in config["split"]
    else:
        assert not (folder / "split.json").exists() and "official" in config["split"]

    again = succeed(
        "train_dvs.py", *flags[:-1], tmp_path / "again", log=tmp_path / "log", before=before
    )
    assert "converting" not in again.out and "making" not in again.out
    assert (tmp_path / "again" / "metrics.csv").exists()


def test_the_split_of_cifar10_dvs_is_spikingjellys_without_loading(tmp_path):
    for label, name in enumerate(CLASSES):
        (tmp_path / "events_np" / name).mkdir(parents=True)
        for i in range(12):
            np.savez(tmp_path / "events_np" / name / f"cifar10_{name}_{i}.npz", **events(label + i))
    flags = ["--dataset", "cifar10-dvs", "--data-dir", tmp_path, *NET, "--resize", "8"]
    succeed(
        "train_dvs.py", *flags, "--frames", "2", "--out", tmp_path / "run", log=tmp_path / "log"
    )
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    whole = CIFAR10DVS(str(tmp_path), data_type="frame", frames_number=2, split_by="number")
    expected = datasets.split_to_train_test_set(0.9, whole, 10)
    for part, subset in zip(("train", "test"), expected, strict=True):
        paths = [Path(whole.samples[i][0]) for i in subset.indices]
        assert split[part] == [f"{path.parent.name}/{path.name}" for path in paths]


def test_cifar10_dvs_is_split_into_9000_and_1000_as_in_the_paper(example_modules):
    train, test = example_modules("trainer.events").split_in_file_order([*range(10)] * 1000)
    assert (len(train), len(test), len({*train, *test})) == (9000, 1000, 10_000)


def test_real_n_mnist_is_learned(tmp_path):
    arrays = shared("nmnist") / "events_np"
    for part, each in (("train", 40), ("test", 10)):
        for label in range(10):
            folder = tmp_path / "data" / "events_np" / part / str(label)
            folder.mkdir(parents=True)
            for path in sorted((arrays / part / str(label)).iterdir())[:each]:
                shutil.copyfile(path, folder / path.name)
    flags = "--frames 4 --resize 16 --model plain:6 --width 16 --optimizer adamw --lr 0.01".split()
    flags += "--epochs 4 --batch-size 10 --workers 0".split()
    flags += ["--data-dir", tmp_path / "data", "--out", tmp_path / "run"]
    succeed("train_dvs.py", *flags, log=tmp_path / "log")
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert metrics.test_accuracy.max() > 0.3  # chance is 0.1, with 100 recordings give or take 0.03


# What can be wrong with the data


def small_n_mnist(root):
    """What SpikingJelly makes of N-MNIST, but small."""
    for part, each in (("train", 4), ("test", 2)):
        for label in range(3):
            (root / "events_np" / part / str(label)).mkdir(parents=True)
            for i in range(each):
                path = root / "events_np" / part / str(label) / f"{i}.npz"
                np.savez(path, **events(label + i, (34, 34)))
    return ["--data-dir", root, *NET, "--frames", "2", "--out", root / "run"]


def test_missing_archives_are_named_with_their_place(tmp_path):
    for dataset, archive in (
        ("n-mnist", "Train.zip"),
        ("dvs128-gesture", "DvsGesture.tar.gz"),
        ("n-caltech101", "Caltech101.zip"),
    ):
        flags = ["--dataset", dataset, "--data-dir", tmp_path / "none", "--out", tmp_path / "run"]
        error = run("train_dvs.py", *flags, log=tmp_path / "log").error
        assert archive in error and str(tmp_path / "none" / "download") in error
    assert not (tmp_path / "none").exists()


def test_a_failed_download_is_one_line_and_leaves_nothing(tmp_path):
    flags = ["--dataset", "cifar10-dvs", "--data-dir", tmp_path / "data", "--out", tmp_path / "run"]
    done = run("train_dvs.py", *flags, log=tmp_path / "log", before=no_network)
    assert done.code == 2 and done.err.count("\n") == 1, done.err
    assert "airplane.zip" in done.err and "no network" in done.err
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("dataset", ["cifar10-dvs", "dvs128-gesture", "n-mnist"])
def test_a_truncated_raw_recording_is_named(tmp_path, dataset):
    root = tmp_path / "data"
    before = make_raw(root, dataset)
    download = root / "download"
    if dataset == "cifar10-dvs":
        files = {f"dog/cifar10_dog_{j}.aedat": aedat2(events(j)) for j in range(3)}
        files["dog/cifar10_dog_1.aedat"] = files["dog/cifar10_dog_1.aedat"][:-5]
        zipped(download / "dog.zip", files)
        name = "cifar10_dog_1.aedat"
    elif dataset == "dvs128-gesture":
        raw = root / "extract"
        with tarfile.open(download / "DvsGesture.tar.gz") as archive:
            for member in archive:
                extract(archive, member, raw)
        name = "user24_led.aedat"
        path = raw / "DvsGesture" / name
        path.write_bytes(path.read_bytes()[:-13])
    else:
        files = {f"Train/{d}/{d}.bin": atis(events(d, (34, 34))) for d in range(10)}
        files["Train/3/3.bin"] = files["Train/3/3.bin"][:-3]
        zipped(download / "Train.zip", files)
        name = "3.bin"
    flags = ["--dataset", dataset, "--data-dir", root, *NET, "--frames", "2", "--resize", "8"]
    done = run(
        "train_dvs.py", *flags, "--out", tmp_path / "run", log=tmp_path / "log", before=before
    )
    assert name in done.error and "truncated" in done.error
    assert not (root / "events_np").exists() and not list(root.glob("*.building"))


def test_a_truncated_event_file_or_frame_file_is_named(tmp_path):
    flags = small_n_mnist(tmp_path)
    broken = tmp_path / "events_np" / "train" / "1" / "2.npz"
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    error = run("train_dvs.py", *flags, log=tmp_path / "log").error
    assert str(broken) in error
    assert not list(tmp_path.glob("frames*"))

    np.savez(broken, **{key: values[:0] for key, values in events(1).items()})
    error = run("train_dvs.py", *flags, "--split-by", "time", log=tmp_path / "log").error
    assert str(broken) in error and "empty" in error

    broken.write_bytes(content)
    done = run("train_dvs.py", *flags, log=tmp_path / "log")
    assert done.code == 0, done.err
    shutil.rmtree(tmp_path / "run")
    frames = tmp_path / "frames_number_2_split_by_number" / "test" / "1" / "1.npz"
    frames.write_bytes(frames.read_bytes()[:100])
    for workers in ("0", "1"):
        error = run("train_dvs.py", *flags, "--workers", workers, log=tmp_path / "log").error
        assert str(frames) in error and "makes it anew" in error
        shutil.rmtree(tmp_path / "run")
    frames.unlink()
    succeed("train_dvs.py", *flags, log=tmp_path / "log")


def test_an_interrupted_conversion_is_begun_again(tmp_path):
    root = tmp_path / "data"
    before = make_raw(root, "n-mnist")
    (root / "events_np" / "train").mkdir(parents=True)
    (root / "events_np.building").touch()  # what SpikingJelly 2.0.0 leaves when it is killed
    flags = ["--data-dir", root, *NET, "--frames", "2", "--out", tmp_path / "run"]
    succeed("train_dvs.py", *flags, log=tmp_path / "log", before=before)
    assert len(list((root / "events_np").rglob("*.npz"))) == 60


def test_a_class_in_the_test_folder_only(tmp_path):
    flags = small_n_mnist(tmp_path)
    shutil.copytree(tmp_path / "events_np" / "test" / "0", tmp_path / "events_np" / "test" / "7")
    error = run("train_dvs.py", *flags, log=tmp_path / "log").error
    assert "only one of train/ and test/ has the class 7" in error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    flags = small_n_mnist(tmp_path)
    tmp_path.chmod(0o555)
    error = run("train_dvs.py", *flags, log=tmp_path.parent / "log").error
    tmp_path.chmod(0o755)
    assert "writable" in error


def test_two_processes_that_convert_and_cache_at_once_lose_nothing(tmp_path):
    root = tmp_path / "data"
    before = make_raw(root, "n-mnist")
    flags = ["--data-dir", root, *NET, "--frames", "2"]
    pair = [
        Script(
            "train_dvs.py", *flags, "--out", tmp_path / f"run{i}", log=tmp_path / f"log{i}",
            before=before,
        )
        for i in range(2)
    ]  # fmt: skip
    done = [script.wait() for script in pair]
    assert [d.code for d in done] == [0, 0], done[0].err + done[1].err
    said = done[0].out + done[1].out
    assert said.count("converting the recordings") == said.count("making 2 frames") == 1
    for folder in ("events_np", "frames_number_2_split_by_number"):
        assert len(list((root / folder).rglob("*.np[yz]"))) == 60
    assert_same_weights(tmp_path / "run0", tmp_path / "run1")


def test_what_a_killed_process_was_caching_is_made_by_the_next(tmp_path):
    root = tmp_path / "data"
    before = make_raw(root, "n-mnist")
    flags = ["--data-dir", root, *NET, "--frames", "2", "--out", tmp_path / "run"]
    killed = Script("train_dvs.py", *flags, log=tmp_path / "log", before=before)
    waiting = Script(
        "train_dvs.py", *flags[:-1], tmp_path / "other", log=tmp_path / "log2", before=before
    )
    killed.wait_for(str(root))  # it converts, or waits for the other to do so
    killed.process.kill()
    killed.process.join()
    done = waiting.wait()
    assert done.code == 0, done.err
    for folder in ("events_np", "frames_number_2_split_by_number"):
        assert len(list((root / folder).rglob("*.np[yz]"))) == 60
