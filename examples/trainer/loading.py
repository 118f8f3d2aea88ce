"""From a data set to batches whose order and augmentation are functions of seed and epoch alone.

So neither the number of loading processes, nor that of training processes, nor an interruption
has any influence on what a training sees.
"""

from __future__ import annotations

import argparse
import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, Sampler, Subset

from .errors import UserError
from .processes import World

__all__ = [
    "Data",
    "EpochBatches",
    "Loaders",
    "Seeded",
    "Transformed",
    "first_per_class",
    "make_loaders",
]


@dataclass
class Data:
    """A data set ready for training.

    Samples are ``(x, label)``, with an image ``[C, H, W]`` or frames ``[T, C, H, W]`` as ``x``.

    Attributes:
        train: Training samples, augmented.
        test: Test samples.
        classes: Names of the classes.
        split: In words, which samples are for training and which for testing.
        split_files: The same as names of files, where the data set itself does not say.
    """

    train: Transformed
    test: Transformed
    classes: list[str]
    split: str
    split_files: dict[str, list[str]] = field(default_factory=dict)


def first_per_class(labels: Any, number: int | None) -> list[int]:
    """Indices of the first samples of each class, in the order of the data set."""
    labels = np.asarray(labels)
    if number is None:
        return list(range(len(labels)))
    kept = [np.flatnonzero(labels == label)[:number] for label in np.unique(labels)]
    return sorted(int(index) for index in np.concatenate(kept))


class Transformed(Dataset[tuple[Tensor, int]]):
    """A data set, or part of it, with a transform of its own."""

    def __init__(self, dataset: Any, indices: list[int], transform: Any) -> None:
        self.dataset, self.indices, self.transform = dataset, indices, transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x, label = self.dataset[self.indices[index]]
        return self.transform(x), int(label)

    def counts(self, classes: int) -> list[int]:
        """How many samples there are of each class."""
        labels = np.asarray(self.dataset.targets)[self.indices]
        return [int((labels == label).sum()) for label in range(classes)]


class Seeded(Dataset[tuple[Tensor, int]]):
    """Draws a sample's augmentation from seed, epoch and index, whoever loads it and when."""

    def __init__(self, dataset: Transformed, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        before = torch.get_rng_state()
        mixed = np.random.SeedSequence([self.seed, epoch, index]).generate_state(1, np.uint64)
        # torch.manual_seed would also queue a seed for CUDA, once a sample.
        torch.default_generator.manual_seed(int(mixed[0] >> np.uint64(1)))
        try:
            return self.dataset[index]
        finally:
            torch.set_rng_state(before)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """This process's share of each batch of an epoch, from any batch on.

    The last, incomplete batch of an epoch is left out; every epoch is shuffled anew.
    """

    def __init__(
        self, dataset: Transformed, batch_size: int, world: World, seed: int, accumulate: int
    ) -> None:
        if batch_size % world.size:
            raise UserError(
                f"--batch-size {batch_size} cannot be shared by {world.size} processes: choose a "
                "multiple of their number"
            )
        if batch_size // world.size % accumulate:
            raise UserError(
                f"--accumulate {accumulate} does not divide the {batch_size // world.size} samples "
                "of a batch (in each process): choose another"
            )
        if batch_size > len(dataset):
            raise UserError(
                f"--batch-size {batch_size} is more than the {len(dataset)} training samples: "
                "lower it"
            )
        self.shuffled: DistributedSampler[Any] = DistributedSampler(
            dataset, world.size, world.rank, shuffle=True, seed=seed, drop_last=True
        )
        self.batches = BatchSampler(self.shuffled, batch_size // world.size, drop_last=True)
        self.first = 0

    def start(self, epoch: int, batch: int) -> None:
        self.shuffled.set_epoch(epoch)
        self.first = batch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in islice(self.batches, self.first, None):
            yield [(self.shuffled.epoch, index) for index in batch]


class Loaders(NamedTuple):
    """Loaders of training and test samples, and what says where the former begins."""

    train: DataLoader[tuple[Tensor, Tensor]]
    batches: EpochBatches
    test: DataLoader[tuple[Tensor, Tensor]]
    one_batch_less: bool  # of test samples, than process 0 has


def make_loaders(data: Data, args: argparse.Namespace, world: World) -> Loaders:
    batch_size, seed = args.batch_size, args.seed
    batches = EpochBatches(data.train, batch_size, world, seed, args.accumulate)
    settings: dict[str, Any] = {
        "num_workers": args.workers,
        "pin_memory": world.device.type == "cuda",
        "worker_init_fn": ignore_interrupt,
        "persistent_workers": args.workers > 0,
    }
    # Loaders draw from a generator of their own: the global one is for the model alone.
    train: DataLoader[Any] = DataLoader(
        Seeded(data.train, seed), batch_sampler=batches, generator=torch.Generator(), **settings
    )
    if len(data.test) < world.size:
        raise UserError(f"{len(data.test)} test samples are too few for so many processes")
    share = Subset(data.test, range(world.rank, len(data.test), world.size))
    each = batch_size // world.size
    test: DataLoader[Any] = DataLoader(share, each, generator=torch.Generator(), **settings)
    most = math.ceil(len(data.test) / world.size)  # which process 0 has
    return Loaders(train, batches, test, one_batch_less=len(test) < math.ceil(most / each))


def ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches loading processes too; the training process ends them when it is ready."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
