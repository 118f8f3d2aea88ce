"""Small data sets in the genuine formats, and what keeps the scripts from downloading real ones."""

import gzip
import hashlib
import importlib
import io
import pickle
import socket
import struct
import tarfile
import urllib.error
import urllib.request
import zipfile
from functools import partial
from pathlib import PurePosixPath

import numpy as np
from PIL import Image
from torchvision import datasets

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


def extract(archive, member, folder):
    """Extract a member of a tar archive, if it is a file or folder that stays within ``folder``."""
    if hasattr(tarfile, "data_filter"):
        archive.extract(member, folder, filter="data")
        return
    path = PurePosixPath(member.name)  # Python before 3.11.4 has no filters
    if not (member.isreg() or member.isdir()) or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{member.name} in {archive.name} is no file or folder of its own")
    archive.extract(member, folder)


# Images


def pattern(label, rng, shape):
    """An image that tells its class by its brightness."""
    return (rng.integers(0, 60, shape) + 19 * label).astype(np.uint8)


def cifar_archive(path, folder, files, meta):
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
    cifar_archive(root / file, folder, {name: batch() for name in names}, meta)
    return partial(expect_cifar, root / file, f"CIFAR{classes}")


def expect_cifar(path, name):
    """Tell torchvision the checksums of this archive; everything else in it stays as it is."""
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


def make_images(root, train=("cat", "dog"), test=("cat", "dog")):
    for part, classes in (("train", train), ("test", test)):
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = np.full((10, 12, 3), 20 * i, np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return ["--dataset", "folder", "--data-dir", root, "--image-size", "8"]


# Recordings of events


def events(seed, size=(128, 128), number=150, begin=1000):
    """Events of a dot that moves to the right, as arrays t, x, y, p."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(begin, begin + 100_000, number))
    x = ((t - begin) // 2000 + rng.integers(0, 8, number)) % size[1]
    y = rng.integers(40, 60, number) % size[0]
    return {"t": t, "x": x, "y": y, "p": rng.integers(0, 2, number)}


def aedat2(recording):
    """AEDAT 2.0 as in CIFAR10-DVS: big-endian pairs of address and microseconds."""
    header = b"#!AER-DAT2.0\r\n# This is a raw AE data file created by saveaerdat.m\r\n"
    t, x, y, p = (recording[key] for key in "txyp")
    address = ((127 - x) << 8) | ((127 - y) << 1) | (1 - p)
    return header + np.stack([address, t], axis=1).astype(">u4").tobytes()


def aedat3(recording):
    """AEDAT 3.1 as in DVS128 Gesture: packets of events, here one of another type first."""
    header = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"
    special = struct.pack("<HHIIIIII", 0, 1, 8, 4, 0, 1, 1, 1) + struct.pack("<II", 1, 0)
    content = header + special
    t, x, y, p = (recording[key] for key in "txyp")
    words = np.stack([(x << 17) | (y << 2) | (p << 1) | 1, t], axis=1).astype("<u4")
    for packet in np.array_split(words, 3):
        n = len(packet)
        content += struct.pack("<HHIIIIII", 1, 1, 8, 4, 0, n, n, n) + packet.tobytes()
    return content


def atis(recording):
    """The 40-bit events of N-MNIST and N-Caltech101."""
    t, x, y, p = (recording[key] for key in "txyp")
    columns = [x, y, (p << 7) | (t >> 16), (t >> 8) & 255, t & 255]
    return np.stack(columns, axis=1).astype(np.uint8).tobytes()


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def cifar10_dvs(download, each=10):
    for i, name in enumerate(CLASSES):
        files = {
            f"{name}/cifar10_{name}_{j}.aedat": aedat2(events(100 * i + j)) for j in range(each)
        }
        zipped(download / f"{name}.zip", files)


def dvs128_gesture(download):
    files, listing = {}, {}
    for part, user in (("train", "user01_led"), ("test", "user24_led")):
        parts = [events(label, begin=200_000 * label) for label in range(1, 12)]
        whole = {key: np.concatenate([p[key] for p in parts]) for key in "txyp"}
        files[f"{user}.aedat"] = aedat3(whole)
        labels = [f"{n},{200_000 * n},{200_000 * n + 100_000}" for n in range(1, 12)]
        files[f"{user}_labels.csv"] = "\n".join(["class,startTime_usec,endTime_usec", *labels, ""])
        listing[f"trials_to_{part}.txt"] = f"{user}.aedat\n"
    with tarfile.open(download / "DvsGesture.tar.gz", "w:gz") as archive:
        for name, content in {**files, **listing}.items():
            content = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(f"DvsGesture/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    for name in ("gesture_mapping.csv", "LICENSE.txt", "README.txt"):
        (download / name).write_text("not read\n")


def n_caltech101(download):
    size = (170, 230)
    files = {
        f"Caltech101/{name}/image_{j:04}.bin": atis(events(100 * i + j, size))
        for i, name in enumerate(["accordion", "airplanes", "anchor"])
        for j in range(1, 11)
    }
    zipped(download / "Caltech101.zip", files)
    zipped(download / "Caltech101_annotations.zip", {"note": "not read"})
    for name in ("ReadMe(Caltech101)-SINAPSE-G.txt", "ReadMe(Caltech101).txt"):
        (download / name).write_text("not read\n")


def n_mnist(download):
    for part, each in (("Train", 4), ("Test", 2)):
        files = {
            f"{part}/{label}/{10 * label + j:05}.bin": atis(events(label + j, (34, 34)))
            for label in range(10)
            for j in range(each)
        }
        zipped(download / f"{part}.zip", files)


WRITERS = {
    "cifar10-dvs": (cifar10_dvs, "cifar10_dvs", "CIFAR10DVS"),
    "dvs128-gesture": (dvs128_gesture, "dvs128_gesture", "DVS128Gesture"),
    "n-caltech101": (n_caltech101, "n_caltech101", "NCaltech101"),
    "n-mnist": (n_mnist, "n_mnist", "NMNIST"),
}


def expect_archives(download, module, name):
    """Tell SpikingJelly the checksums of these archives; everything else in it stays as it is."""
    kind = getattr(importlib.import_module(f"spikingjelly.datasets.{module}"), name)
    known = [
        (file, url, hashlib.md5((download / file).read_bytes()).hexdigest())
        for file, url, _ in kind.resource_url_md5()
        if (download / file).exists()
    ]
    kind.resource_url_md5 = staticmethod(lambda: known)


def make_raw(root, dataset):
    writer, *names = WRITERS[dataset]
    download = root / "download"
    download.mkdir(parents=True)
    writer(download)
    return partial(expect_archives, download, *names)


def no_network():
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    urllib.request.urlopen = refuse
    socket.create_connection = refuse
