"""Images as bytes, and batches of them cropped and flipped at random."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from analysis.common.data import cifar10_images, digits

__all__ = ["Images", "Part", "augmented_batches", "load_images"]

CROPPED = 8  # a crop may reach an eighth of the image, 4 pixels of 32, beyond each edge


@dataclass(frozen=True)
class Part:
    """Images ``[N, 3, S, S]`` as bytes, and their labels ``[N]``."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Images:
    """Three parts of a data set, and what training images are normalised by.

    Attributes:
        train: What is trained on.
        val: For every choice.
        test: Touched once, at the end of a run.
        mean: Of each channel of the training images, ``[3, 1, 1]``.
        deviation: The same of their standard deviation.
    """

    train: Part
    val: Part
    test: Part
    mean: Tensor
    deviation: Tensor

    def to(self, device: torch.device) -> Images:
        """All of it on a device."""
        moved = {
            name: Part(part.x.to(device), part.y.to(device))
            for name, part in (("train", self.train), ("val", self.val), ("test", self.test))
        }
        mean, deviation = self.mean.to(device), self.deviation.to(device)
        return replace(self, **moved, mean=mean, deviation=deviation)

    def normalised(self, x: Tensor) -> Tensor:
        """Bytes to numbers of mean 0 and deviation 1 in each channel."""
        return (x.float() - self.mean) / self.deviation


@cache
def load_images(data: str, images: int, val: int, test: int) -> Images:
    """Images of CIFAR-10 at 32 x 32 pixels, or digits at 8 x 8 where none are to be had.

    Args:
        data: "cifar10" or "digits".
        images: Training images of each class.
        val: Images of each class for validation: those that follow in the archive's order.
        test: Test images of each class.
    """
    if data == "cifar10":
        (x, y), (test_x, test_y) = cifar10_images(images + val, test, 32)
    else:
        (x, y), (test_x, test_y) = (_grey_to_bytes(*part) for part in digits())
    rank = _rank_in_class(y)
    train = Part(x[rank < images], y[rank < images])
    held = (rank >= images) & (rank < images + val)
    tested = _rank_in_class(test_y) < test
    numbers = train.x.float()
    mean = numbers.mean((0, 2, 3))[:, None, None]
    deviation = numbers.std((0, 2, 3))[:, None, None]
    return Images(
        train, Part(x[held], y[held]), Part(test_x[tested], test_y[tested]), mean, deviation
    )


def augmented_batches(images: Images, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All training images once, cropped and flipped at random, the last batch smaller.

    Order, crops and flips depend on the seed alone, not on the device.

    Args:
        images: What to draw from.
        size: Images a batch.
        seed: Of everything that is drawn.
    """
    part = images.train
    pad = part.x.shape[-1] // CROPPED
    draw = torch.Generator().manual_seed(seed)
    for chosen in torch.randperm(len(part), generator=draw).split(size):
        down, right = torch.randint(2 * pad + 1, (2, len(chosen)), generator=draw)
        flip = torch.rand(len(chosen), generator=draw) < 0.5
        x = part.x[chosen.to(part.x.device)]
        yield (
            images.normalised(crop_and_flip(x, down, right, flip, pad)),
            part.y[chosen.to(part.y.device)],
        )


def crop_and_flip(x: Tensor, down: Tensor, right: Tensor, flip: Tensor, pad: int) -> Tensor:
    """Windows of the padded images, some mirrored; the size stays.

    Args:
        x: ``[N, C, S, S]``.
        down: First row of each window in the padded image, ``[N]``.
        right: Its first column.
        flip: Whether it is mirrored.
        pad: Black pixels added at each edge.
    """
    size = x.shape[-1]
    padded = torch.nn.functional.pad(x, (pad, pad, pad, pad))
    ahead = torch.arange(size)
    rows = down[:, None] + ahead
    columns = right[:, None] + torch.where(flip[:, None], size - 1 - ahead, ahead)
    rows, columns = rows.to(x.device), columns.to(x.device)
    sample = torch.arange(len(x), device=x.device)[:, None, None]
    # Indices before and behind a slice put the channels last.
    return padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _grey_to_bytes(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Digits ``[N, 1, 1, 8, 8]`` of 0 to 16 as bytes in three equal channels."""
    return (15 * x[:, 0]).to(torch.uint8).expand(-1, 3, -1, -1).contiguous(), y


def _rank_in_class(y: Tensor) -> Tensor:
    rank = torch.zeros_like(y)
    for label in y.unique():
        rank[y == label] = torch.arange(int((y == label).sum()))
    return rank
