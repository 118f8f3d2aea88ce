"""Still images: CIFAR-10 and -100, Fashion-MNIST, digits, and folders of images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.transforms import v2

from .errors import UserError, one_line
from .loading import Data, Transformed, first_per_class

__all__ = ["load"]

# Mean and deviation of each colour over the training set; for folders, a plain guess.
STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "digits": ((0.3053,), (0.3760,)),
    "folder": ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
}
DOWNLOADS = {
    "cifar10": (datasets.CIFAR10, datasets.CIFAR10.url, "{root}/cifar-10-python.tar.gz"),
    "cifar100": (datasets.CIFAR100, datasets.CIFAR100.url, "{root}/cifar-100-python.tar.gz"),
    "fashion-mnist": (
        datasets.FashionMNIST,
        datasets.FashionMNIST.mirrors[0] + "train-images-idx3-ubyte.gz and its three fellows",
        "{root}/FashionMNIST/raw/train-images-idx3-ubyte.gz and its three fellows",
    ),
}


def load(args: argparse.Namespace) -> Data:
    """The data set that the flags ask for."""
    if args.dataset == "digits":
        train, test, classes = digits()
        split = "digits: in file order, the last 20 % of each class for testing"
    elif args.dataset == "folder":
        train, test, classes = folders(Path(args.data_dir))
        split = f"folders {args.data_dir}/train and {args.data_dir}/test"
    else:
        train, test, classes = downloaded(args.dataset, Path(args.data_dir))
        split = f"the official one of {args.dataset}"
    train_indices = first_per_class(train.targets, args.train_per_class)
    test_indices = first_per_class(test.targets, args.test_per_class)
    return Data(
        Transformed(train, train_indices, training_transform(args)),
        Transformed(test, test_indices, plain_transform(args)),
        classes,
        f"{split}; {len(train_indices)} training and {len(test_indices)} test images used",
    )


def training_transform(args: argparse.Namespace) -> v2.Transform:
    """The augmentations asked for, in the order of the method's authors, then normalization."""
    size = image_size(args)
    steps: list[v2.Transform]
    if args.random_resized_crop:
        steps = [v2.ToImage(), v2.RandomResizedCrop(size, antialias=True)]
    else:
        steps = [to_image(args)]
    if args.crop:
        steps.append(v2.RandomCrop(size, padding=max(1, size // 8)))
    if args.flip:
        steps.append(v2.RandomHorizontalFlip())
    if args.autoaugment:
        if len(STATISTICS[args.dataset][0]) == 1:
            raise UserError(f"--autoaugment is for colour images, and {args.dataset} has none")
        steps.append(v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10))
    steps.append(normalization(args))
    if args.cutout:
        if args.cutout >= size:
            raise UserError(f"--cutout {args.cutout} covers images of {size} pixels: lower it")
        # A square of this side that lies within the image, set to the mean.
        share = (args.cutout / size) ** 2
        steps.append(v2.RandomErasing(1.0, scale=(share, share), ratio=(1.0, 1.0)))
    return v2.Compose(steps)


def plain_transform(args: argparse.Namespace) -> v2.Transform:
    return v2.Compose([to_image(args), normalization(args)])


def to_image(args: argparse.Namespace) -> v2.Transform:
    if args.image_size is None and args.dataset != "folder" and not args.random_resized_crop:
        return v2.ToImage()
    size = image_size(args)
    # What random parts of images were learned by is tested on the middle 7/8, as usual on ImageNet.
    whole = round(size * 8 / 7) if args.random_resized_crop else size
    return v2.Compose([v2.ToImage(), v2.Resize(whole, antialias=True), v2.CenterCrop(size)])


def normalization(args: argparse.Namespace) -> v2.Transform:
    mean, deviation = STATISTICS[args.dataset]
    return v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, deviation), v2.ToPureTensor()]
    )


def image_size(args: argparse.Namespace) -> int:
    native = {"fashion-mnist": 28, "digits": 8}
    return args.image_size or native.get(args.dataset, 32)


class Digits(Dataset[tuple[Tensor, int]]):
    """Handwritten digits of scikit-learn: 8 x 8 pixels, nothing to download."""

    def __init__(self, images: np.ndarray, targets: np.ndarray) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.images[index]), self.targets[index]


def digits() -> tuple[Any, Any, list[str]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError("--dataset digits needs scikit-learn: pip install scikit-learn") from error
    bunch = load_digits()
    images = (bunch.images[:, None] * (255 / 16)).astype(np.uint8)
    parts: list[Any] = []
    for begin, end in ((0.0, 0.8), (0.8, 1.0)):
        indices = []
        for label in range(10):
            own = np.flatnonzero(bunch.target == label)
            indices += own[round(begin * len(own)) : round(end * len(own))].tolist()
        parts.append(Digits(images[indices], bunch.target[indices]))
    train, test = parts
    return train, test, [str(digit) for digit in range(10)]


def folders(root: Path) -> tuple[Any, Any, list[str]]:
    """train/ and test/ of a folder, each with one folder of images a class."""
    parts = []
    for part in (root / "train", root / "test"):
        if not part.is_dir():
            raise UserError(
                f"there is no folder {part}: --data-dir must hold train/ and test/, each with one "
                "folder of images for each class"
            )
        try:
            parts.append(datasets.ImageFolder(str(part), loader=read_image))
        except FileNotFoundError as error:
            raise UserError(f"{part} is not complete: {one_line(error)}") from error
    train, test = parts
    differing = sorted(set(train.classes) ^ set(test.classes))
    if differing:
        present = "train" if differing[0] in train.classes else "test"
        raise UserError(
            f"the class folder {root / present / differing[0]} has no counterpart in "
            f"{'test' if present == 'train' else 'train'}/: both must hold the same classes"
        )
    return train, test, train.classes


def read_image(path: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the image {path} ({error}): replace or remove it") from error


def downloaded(name: str, root: Path) -> tuple[Any, Any, list[str]]:
    """A data set that torchvision downloads where it is absent."""
    dataset, url, path = DOWNLOADS[name]
    try:
        train, test = (dataset(str(root), train=part, download=True) for part in (True, False))
    except Exception as error:  # whatever the network, the archive or the disk has to say
        raise UserError(
            f"{name} is not in {root} and cannot be downloaded ({one_line(error)}): put {url} at "
            f"{path.format(root=root)}, or try --dataset digits, which needs no download"
        ) from error
    return train, test, train.classes
