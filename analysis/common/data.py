"""The data of the studies: real, small enough for two CPU cores, and the same at every call."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["batches", "cifar10_images", "digits", "in_time", "load", "missing", "split_by_class"]

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
# Where Debian's package dataset-fashion-mnist puts it.
FASHION = Path("/usr/share/datasets/fashion-mnist")

Part = tuple[Tensor, Tensor]


def data_folder() -> Path:
    return Path(os.environ.get("SJ_SHORTCUT_DATA", DATA))


def missing(data: str) -> str:
    """Why a data set cannot be used; empty if it can."""
    if data == "digits":
        return ""
    if data == "fashion":
        path, remedy = FASHION, "apt-get install dataset-fashion-mnist brings it."
    else:
        path = data_folder() / {"cifar10": "cifar10.tar.xz", "nmnist": "nmnist/events_np"}[data]
        remedy = (
            "Say where it is by SJ_SHORTCUT_DATA=/path/to/data (with cifar10.tar.xz and "
            "nmnist/events_np in it)."
        )
    return "" if path.exists() else f"{data} is skipped: there is no {path}. {remedy}"


@cache
def load(
    data: str, steps: int = 4, per_class: tuple[int, int] = (100, 50)
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training frames ``[N, T or 1, C, H, W]`` and labels, and those for testing.

    Args:
        data: Name of the data set.
        steps: T, for event data.
        per_class: Training and test images of each class, of CIFAR-10 and Fashion-MNIST.
    """
    if data == "digits":
        parts = digits()
    elif data == "cifar10":
        parts = cifar10(*per_class)
    elif data == "fashion":
        parts = fashion(*per_class)
    else:
        parts = nmnist(steps)
    (x, y), (test_x, test_y) = parts
    mean, deviation = x.mean(), x.std()
    return (x - mean) / deviation, y, (test_x - mean) / deviation, test_y


def digits() -> list[Part]:
    """All 1,797 digits; the last fifth of each class in file order, other writers, for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32)[:, None, None]
    y = torch.tensor(bunch.target)
    return split_by_class(x, y, 0.2)


def split_by_class(x: Tensor, y: Tensor, share: float) -> list[Part]:
    """Two parts, the second with the last ``share`` of each class in the order given."""
    rank = torch.zeros_like(y)
    for label in range(int(y.max()) + 1):
        rank[y == label] = torch.arange(int((y == label).sum()))
    first = rank < (1 - share) * torch.bincount(y)[y]
    return [(x[first], y[first]), (x[~first], y[~first])]


def cifar10(train: int, test: int) -> list[Part]:
    """The first images of each class in the archive's order, averaged to 16 x 16 pixels."""
    return [(x[:, None].float(), y) for x, y in cifar10_images(train, test, 16)]


def cifar10_images(train: int, test: int, size: int) -> list[Part]:
    """The first images of each class in the archive's order, as bytes ``[N, 3, S, S]``.

    Args:
        train: Training images of each class.
        test: Test images of each class.
        size: Height and width, 32 or less; averaged where it is less.
    """
    from PIL import Image

    wanted = {"train": train, "test": test}
    found: dict[str, dict[str, list[np.ndarray]]] = {"train": {}, "test": {}}
    with tarfile.open(data_folder() / "cifar10.tar.xz") as archive:
        for member in archive:
            if not member.isfile():
                continue
            _, part, name, _ = member.name.split("/")
            images = found[part].setdefault(name, [])
            if len(images) < wanted[part]:
                file = archive.extractfile(member)
                assert file is not None  # it is a regular file
                with Image.open(file) as image:
                    small = image.convert("RGB").resize((size, size), Image.Resampling.BOX)
                    images.append(np.asarray(small))
    classes = sorted(found["train"])
    parts = []
    for part in ("train", "test"):
        x = np.stack([image for name in classes for image in found[part][name]])
        y = [label for label, name in enumerate(classes) for _ in found[part][name]]
        parts.append((torch.tensor(x).permute(0, 3, 1, 2).contiguous(), torch.tensor(y)))
    return parts


def fashion(train: int, test: int) -> list[Part]:
    """The first images of each class of Fashion-MNIST, averaged to 14 x 14 pixels."""
    parts = []
    for part, count in (("train", train), ("t10k", test)):
        x = read_idx(FASHION / f"{part}-images-idx3-ubyte.gz", header=16).reshape(-1, 1, 1, 28, 28)
        y = read_idx(FASHION / f"{part}-labels-idx1-ubyte.gz", header=8).long()
        first = torch.cat([(y == label).nonzero()[:count, 0] for label in range(10)])
        pooled = torch.nn.functional.avg_pool3d(x[first].float(), (1, 2, 2))
        parts.append((pooled, y[first]))
    return parts


def read_idx(path: Path, header: int) -> Tensor:
    """The bytes of an IDX file behind its header."""
    with gzip.open(path) as file:
        return torch.tensor(np.frombuffer(file.read(), np.uint8, offset=header))


def nmnist(steps: int) -> list[Part]:
    """All recordings, as T frames of equally many events each, of 16 x 16 pixels."""
    parts = []
    for part in ("train", "test"):
        frames, labels = [], []
        for path in sorted((data_folder() / "nmnist" / "events_np" / part).glob("*/*.npz")):
            with np.load(path) as events:
                x, y, p = (events[name].astype(np.int64) for name in "xyp")
            slot = np.arange(len(x)) * steps // max(len(x), 1)
            frame = np.zeros((steps, 2, 16, 16), np.float32)
            np.add.at(frame, (slot, p, y * 16 // 34, x * 16 // 34), 1)
            frames.append(frame)
            labels.append(int(path.parent.name))
        parts.append((torch.tensor(np.stack(frames)), torch.tensor(labels)))
    return parts


def in_time(x: Tensor, steps: int = 4) -> Tensor:
    """``[T, N, C, H, W]``; a still image is shown at every time step."""
    return x.expand(-1, steps, -1, -1, -1).transpose(0, 1).contiguous()


def batches(
    x: Tensor, y: Tensor, size: int, seed: int, steps: int = 4
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches ``[T, N, C, H, W]`` in an order that depends on the seed alone; full ones only."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    for chosen in order.split(size):
        if len(chosen) == size:
            yield in_time(x[chosen], steps), y[chosen]
