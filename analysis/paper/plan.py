"""Which trainings answer the paper's two claims, the most telling first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

__all__ = ["CLAIMED", "METHODS", "NAMES", "RATE", "Run", "plan", "quick_plan"]

RATE = 0.01  # the paper's
RATES = (0.003, 0.03)  # below and above, to bracket vanilla's best
SEEDS = (0, 1, 2)
# The paper trains 300 epochs of 50,000 images: this is what a core does in minutes.
EPOCHS, IMAGES, BATCH = 10, 1200, 64

# Method → what is said of it; the first four are the paper's claims and our answer.
METHODS = {
    "vanilla": "the output's loss alone",
    "eq6": "the paper's shortcuts: logits of all heads added to the output's, λ = 1",
    "eq10": "the paper's evolutionary training: the same with λ(i) = 0.25 (1 - i/I)",
    "defaults": "this library's defaults: a loss for each head, each with a λ of its own",
    "tet": "no heads; the loss is the mean of those of every time step",
}
CLAIMED = ("vanilla", "eq6", "eq10")  # both of the paper's claims are about these
NAMES = {
    "vanilla": "vanilla",
    "eq6": "shortcuts (Eq. 6)",
    "eq10": "evolutionary (Eq. 10)",
    "defaults": "library's defaults",
    "tet": "loss at every time step",
    "sew": "SEW-ResNet, vanilla",
}


@dataclass(frozen=True)
class Run:
    """One training. Runs of one network and seed start from the same weights.

    Attributes:
        data: "cifar10", or "digits" to try the study without data.
        images: Training images of each class.
        net: "resnet", or "sew".
        depth: 18 or 34.
        width: Channels of the first stage.
        T: Time steps; the image is shown at each.
        method: One of `METHODS`.
        lr: Learning rate at first; it falls to 0 by a cosine.
        epochs: How often each image is seen.
        batch: Images a step.
        amp: Whether it is trained in mixed precision.
        seed: Of weights, batches, crops and flips.
    """

    data: str
    images: int
    net: str
    depth: int
    width: int
    T: int
    method: str
    lr: float
    epochs: int
    batch: int
    amp: bool
    seed: int

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Run:
        """The run of a row of a table of runs."""
        kinds = {"int": int, "float": float, "bool": bool, "str": str}
        return cls(**{each.name: kinds[str(each.type)](row[each.name]) for each in fields(cls)})

    @property
    def key(self) -> str:
        """Short name of the run in every table."""
        digest = hashlib.sha1(repr(tuple(asdict(self).values())).encode()).hexdigest()[:6]
        return f"{self.net}{self.depth}-{self.method}-{self.lr:g}-{self.seed}-{digest}"

    @property
    def work(self) -> float:
        """Cost in layers times epochs of 12,000 images at 8 channels, to count progress by."""
        return self.depth * self.epochs * self.images / IMAGES * self.width / 8


def plan(width: int = 8, amp: bool = False) -> list[Run]:
    """All runs, each once, in the order they are to be done in: any beginning tells most."""
    base = Run("cifar10", IMAGES, "resnet", 18, width, 2, "vanilla", RATE, EPOCHS, BATCH, amp, 0)
    return list(dict.fromkeys(_in_order(base)))


def quick_plan(width: int = 2, amp: bool = False) -> list[Run]:
    """Every method once, of networks too narrow and trainings too short to tell anything."""
    base = Run("digits", 20, "resnet", 18, width, 2, "vanilla", RATE, 1, 50, amp, 0)
    vanilla = [replace(base, seed=seed) for seed in (0, 1)]
    return [*vanilla, *(replace(base, method=name) for name in METHODS if name != "vanilla")]


def _in_order(base: Run) -> Iterator[Run]:
    """What the claims rest on, seed by seed; then vanilla's rates; then what is beside them."""
    by_seed = [replace(base, seed=seed) for seed in SEEDS]
    for first in by_seed:
        for depth in (18, 34):
            yield from _methods(replace(first, depth=depth), CLAIMED)
    for first in by_seed:
        for depth in (18, 34):
            for rate in RATES:
                yield replace(first, depth=depth, lr=rate)
    for first in by_seed:
        for depth in (34, 18):
            yield from _methods(replace(first, depth=depth), ("defaults", "tet"))
        yield replace(first, net="sew", depth=34)


def _methods(base: Run, names: Iterable[str]) -> Iterator[Run]:
    for name in names:
        yield replace(base, method=name)
