"""What the runs say of the paper's claims. Tables in, tables out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from analysis.common.statistics import Difference, welch
from analysis.paper.plan import RATE

__all__ = [
    "DEPTHS",
    "Verdict",
    "accuracies",
    "at_best_rate",
    "best_rate",
    "compared",
    "first_claim",
    "in_short",
    "labelled",
    "second_claim",
    "summed_up",
]

DEPTHS = (18, 34)

Pair = tuple[tuple[str, int], tuple[str, int]]  # method and depth, over method and depth


class Verdict(NamedTuple):
    """One comparison a claim rests on: what was found, and whether it settles anything."""

    text: str
    difference: Difference
    seeds: tuple[int, int]

    @property
    def answer(self) -> str:
        """ "yes" or "no" where the interval leaves out 0, and why not where it does not."""
        if math.isnan(self.difference.low):
            return "not yet: one seed"
        if self.difference.low > 0:
            return "yes"
        return "no" if self.difference.high < 0 else "not settled: the interval has 0 in it"


def labelled(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, with SEW-ResNet as a method of its own: it is compared with all others."""
    return runs.assign(method=runs["method"].where(runs["net"] != "sew", "sew"))


def best_rate(runs: pd.DataFrame, depth: int) -> float:
    """Vanilla's learning rate of the highest mean validation accuracy, on seeds all rates have."""
    rows = runs[(runs["method"] == "vanilla") & (runs["depth"] == depth)]
    if rows.empty:
        return RATE
    tried = rows["lr"].nunique()
    complete = rows.groupby("seed")["lr"].transform("nunique") == tried
    rows = rows[complete] if complete.any() else rows[rows["lr"] == RATE]
    means = rows.groupby("lr")["val_accuracy"].mean().sort_values(kind="stable")
    return float(means.index.to_numpy()[-1]) if len(means) else RATE


def at_best_rate(runs: pd.DataFrame) -> pd.DataFrame:
    """Vanilla at the best of its rates, all others at the paper's."""
    rates = {depth: best_rate(runs, depth) for depth in DEPTHS}
    wanted = runs["depth"].map(rates).where(runs["method"] == "vanilla", RATE)
    return runs[runs["lr"] == wanted]


def accuracies(runs: pd.DataFrame, method: str, depth: int) -> pd.Series:
    """Test accuracies of a method, in percent, one a seed."""
    rows = runs[(runs["method"] == method) & (runs["depth"] == depth)]
    return 100 * rows["test_accuracy"]


def compared(runs: pd.DataFrame, one: tuple[str, int], other: tuple[str, int]) -> Verdict | None:
    """Whether one method and depth is better than another; None where one is missing."""
    a, b = accuracies(runs, *one), accuracies(runs, *other)
    if a.empty or b.empty:
        return None
    text = f"{one[0]}, {one[1]} layers > {other[0]}, {other[1]} layers"
    return Verdict(text, welch(a, b), (len(a), len(b)))


def in_short(runs: pd.DataFrame) -> dict[str, str]:
    """What each part of the claims comes to: part → answer."""
    parts: dict[str, list[Pair]] = {}
    for depth in DEPTHS:
        steps = (("eq6", "vanilla"), ("eq10", "eq6"))
        name = f"Claim 1, ResNet-{depth}: vanilla < Eq. 6 < Eq. 10"
        parts[name] = [((one, depth), (other, depth)) for one, other in steps]
    worse = "Claim 2: vanilla ResNet-34 is worse than vanilla ResNet-18"
    parts[worse] = [(("vanilla", 18), ("vanilla", 34))]
    parts["Claim 2: with Eq. 10 it is better"] = [(("eq10", 34), ("eq10", 18))]
    return {
        part: summed_up([compared(runs, one, other) for one, other in pairs])
        for part, pairs in parts.items()
    }


def summed_up(found: Sequence[Verdict | None]) -> str:
    """One answer to several comparisons that must all hold."""
    known = [each for each in found if each is not None]
    answers = [each.answer for each in known]
    if "no" in answers:
        return "no"
    if len(known) < len(found):
        return "not answered yet: runs are missing"
    if any(answer.startswith("not yet") for answer in answers):
        so_far = ", ".join(f"{each.difference.value:+.1f}" for each in known)
        return f"not answered yet: one seed ({so_far} points) has no interval"
    return "yes" if set(answers) == {"yes"} else "not settled: an interval has 0 in it"


def first_claim(runs: pd.DataFrame) -> list[Verdict]:
    """Vanilla < shortcuts < evolutionary, of each network."""
    pairs = (("eq6", "vanilla"), ("eq10", "eq6"), ("eq10", "vanilla"), ("defaults", "vanilla"))
    found = [
        compared(runs, (one, depth), (other, depth)) for depth in DEPTHS for one, other in pairs
    ]
    return [each for each in found if each is not None]


def second_claim(runs: pd.DataFrame) -> list[Verdict]:
    """The deeper vanilla network is worse, and not so with the method."""
    wanted = [(("vanilla", 18), ("vanilla", 34))]
    wanted += [((name, 34), (name, 18)) for name in ("eq6", "eq10", "defaults")]
    found = [compared(runs, one, other) for one, other in wanted]
    return [each for each in found if each is not None]
