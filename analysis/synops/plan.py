"""Which trainings tell where heads should look, and what a price on spikes buys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import pandas as pd

from analysis.ablation.__main__ import RESULTS as ABLATION
from analysis.ablation.plan import BY_DEPTH, CORE, EASY, MORE, setting
from analysis.ablation.run import Run as Ablation
from analysis.ablation.statistics import USUAL_RATE

__all__ = ["ELSEWHERE", "MAIN", "SEEDS", "VARIANTS", "Run", "plan", "quick_plan", "tuned_rate"]

SEEDS = (0, 1, 2)
SETTING = ("data", "net", "depth", "surrogate", "T", "images")
# What heads read, parts of the map along each side, and the factor of the price (0 for none).
VARIANTS = (
    ("none", 0, 0.0),
    ("spikes", 2, 0.0),
    ("currents", 2, 0.0),
    ("spikes", 2, 1.0),
    ("currents", 2, 1.0),
    ("spikes", 4, 0.0),
    ("currents", 1, 0.0),
    ("none", 0, 1.0),
    ("spikes", 2, 0.5),
    ("currents", 2, 0.5),
    ("currents", 4, 0.0),
    ("spikes", 1, 0.0),
    ("spikes", 4, 1.0),
)
# Of these, the ones that a choice is made of; they are run in more networks and with more seeds.
MAIN = (
    ("none", 0, 0.0),
    ("spikes", 2, 0.0),
    ("spikes", 4, 0.0),
    ("spikes", 2, 1.0),
    ("spikes", 4, 1.0),
)
# Where vanilla trains well, other data, more layers, no batch norm, and the paper's kind.
ELSEWHERE = (
    *EASY[:2],
    EASY[4],
    next(each for each in BY_DEPTH if each.depth == 48),
    *(each for each in MORE if each.data == "fashion"),
    setting("digits", "bare", 6, "atan"),
    setting("digits", "bare", 12, "atan"),
    setting("cifar10", "stages4", 18, "atan"),
    setting("cifar10", "stages4", 34, "atan"),
)


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        data: And the six below: the setting, as in the ablation.
        reads: What heads see, "spikes" or "currents"; "none" for vanilla.
        grid: Parts of the map along each side that heads average over.
        factor: Of the untrained firing rates that the price leaves free; 0 without a price.
        lr: Learning rate; vanilla's is the best of those that the ablation tried, by validation.
    """

    data: str
    net: str
    depth: int
    surrogate: str
    T: int
    images: int
    epochs: int
    reads: str
    grid: int
    factor: float
    lr: float
    seed: int

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Run:
        """The run of a row of the table of runs."""
        kinds = {"int": int, "float": float, "str": str}
        return cls(**{each.name: kinds[str(each.type)](row[each.name]) for each in fields(cls)})

    @property
    def key(self) -> str:
        """Short name of the run in every table."""
        return hashlib.sha1(repr(tuple(asdict(self).values())).encode()).hexdigest()[:8]

    @property
    def vanilla(self) -> Ablation:
        """The ablation's run of the same setting, seed and rate, without heads."""
        core = next(each for each in (*CORE, *ELSEWHERE) if same_setting(self, each))
        return replace(core, lr=self.lr, seed=self.seed, epochs=self.epochs)

    @property
    def work(self) -> float:
        """Cost, by which progress is counted."""
        return self.vanilla.work


def same_setting(one: Any, other: Any) -> bool:
    """Whether two runs have data, network and time steps in common."""
    return all(getattr(one, name) == getattr(other, name) for name in SETTING)


def plan() -> list[Run]:
    """All runs, the most telling first: digits, which take minutes, before the rest."""
    digits, others = CORE[:4], CORE[4:]
    runs = (
        *_of(digits, VARIANTS, SEEDS),
        *_of(others, MAIN, SEEDS),
        *_of(digits, MAIN, (3, 4)),
        *_of(ELSEWHERE, MAIN, SEEDS),
        *_of(others, VARIANTS, SEEDS),
    )
    return list(dict.fromkeys(runs))


def quick_plan() -> list[Run]:
    """Four trainings of one epoch, to try the command."""
    return [replace(run, epochs=1) for run in _of(CORE[:1], VARIANTS[:4], (0,))]


def _of(
    settings: Sequence[Ablation], variants: Sequence[tuple[str, int, float]], seeds: Sequence[int]
) -> Iterator[Run]:
    rates = {core: tuned_rate(core) for core in settings}
    for seed in seeds:
        for reads, grid, factor in variants:
            for core in settings:
                lr = rates[core] if reads == "none" else USUAL_RATE
                same = {name: getattr(core, name) for name in (*SETTING, "epochs")}
                yield Run(**same, reads=reads, grid=grid, factor=factor, lr=lr, seed=seed)


def tuned_rate(core: Ablation) -> float:
    """Vanilla's best learning rate in a setting, by validation, of those that have three seeds.

    The usual one where the ablation has no such network.
    """
    runs = pd.read_csv(ABLATION / "runs.csv")
    usual = (runs["schedule"] == "none") & (runs["clip"] == 0) & (runs["epochs"] == core.epochs)
    for name in SETTING:
        usual &= runs[name] == getattr(core, name)
    tried = {float(str(lr)): own for lr, own in runs[usual].groupby("lr")["val_accuracy"]}
    means = {lr: own.mean() for lr, own in tried.items() if len(own) >= len(SEEDS)}
    return max(means, key=lambda lr: means[lr], default=USUAL_RATE)
