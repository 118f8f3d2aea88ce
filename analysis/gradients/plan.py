"""Which networks' gradients are looked at, the most telling first."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["METHODS", "SURROGATES", "Run", "plan", "quick_plan"]

STEPS, BATCH, WIDTH = 200, 20, 8
MEASURED = 8  # batches

METHODS = {"vanilla": "vanilla", "eq6": "shortcuts"}
# The paper names three surrogates, and does not say which it takes; ATan is of this study's kind.
SURROGATES = {"atan": "ATan", "rect": "rectangle"}


@dataclass(frozen=True)
class Run:
    """One training, looked at before its first step and after its last.

    Attributes:
        data: "cifar10", or "digits" to try the study without data.
        depth: 18 or 34.
        width: Channels of the first stage.
        T: Time steps; the image is shown at each.
        surrogate: One of `SURROGATES`.
        method: One of `METHODS`.
        steps: Of training.
        batch: Images a step.
        measured: Batches whose gradients are counted.
        seed: Of weights, batches, crops and flips.
    """

    data: str
    depth: int
    width: int
    T: int
    surrogate: str
    method: str
    steps: int
    batch: int
    measured: int
    seed: int

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Run:
        """The run of a row of a table of runs."""
        kinds = {"int": int, "str": str}
        return cls(**{each.name: kinds[str(each.type)](row[each.name]) for each in fields(cls)})

    @property
    def key(self) -> str:
        """Short name of the run in every table."""
        digest = hashlib.sha1(repr(tuple(asdict(self).values())).encode()).hexdigest()[:6]
        return f"{self.surrogate}-{self.method}-{self.seed}-{digest}"

    @property
    def work(self) -> float:
        """Cost in images times time steps."""
        return self.T * self.batch * (self.steps + self.measured)


def plan() -> list[Run]:
    """All runs, each once, in the order they are to be done in."""
    return [
        Run("cifar10", 34, WIDTH, 4, surrogate, method, STEPS, BATCH, MEASURED, 0)
        for surrogate in SURROGATES
        for method in METHODS
    ]


def quick_plan() -> list[Run]:
    """The same of a network too small, and for too short, to tell anything."""
    return [
        Run("digits", 18, 2, 2, surrogate, method, 2, 20, 2, 0)
        for surrogate in SURROGATES
        for method in METHODS
    ]
