"""What was expected of vanishing gradients, and in which cases it came true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.common.figures import Tables
from analysis.gradient_vanishing.run import EARLY, KEYS
from sj_shortcut import summarize

__all__ = ["NAMES", "Expectation", "expectations", "features", "in_words", "pairs"]

NAMES = {
    "atan": "ATan",
    "sigmoid": "Sigmoid",
    "rect": "rectangle",
    "digits": "digits",
    "cifar10": "CIFAR-10",
    "nmnist": "N-MNIST",
}


def features(tables: Tables) -> pd.DataFrame:
    """One row a run and epoch: what the gradients of its convolutions come to, and the accuracy."""
    gradients = tables["gradients"]
    convolutions = gradients[gradients["layer"] != "classifier"]
    found = summarize(convolutions, by=[*KEYS, "epoch"])
    # The first convolution has fewer input channels than the others, so less of a norm.
    rest = summarize(convolutions[convolutions["depth"] > 1], by=[*KEYS, "epoch"])
    found["second_to_last"] = rest["first_to_last"]
    return found.merge(tables["runs"][[*KEYS, "accuracy"]], on=list(KEYS))


def pairs(found: pd.DataFrame, epoch: str) -> pd.DataFrame:
    """One row a case: its features at one moment, of vanilla and of shortcuts side by side."""
    moment = {"before": 0, "early": found["epochs"].clip(upper=EARLY), "after": found["epochs"]}
    rows = found[found["epoch"] == moment[epoch]]
    index = [key for key in KEYS if key != "method"]
    return rows.pivot(
        index=index,
        columns="method",
        values=["first_to_last", "second_to_last", "coherence", "accuracy"],
    )


@dataclass(frozen=True)
class Expectation:
    """What was expected of some cases, and in which of them it came true."""

    text: str
    met: pd.Series

    def __str__(self) -> str:
        line = f"- {self.text}: **{int(self.met.sum())} of {len(self.met)} cases**."
        if len(self.met) and not self.met.all():
            line += " Not so: " + "; ".join(map(in_words, self.met.index[~self.met])) + "."
        return line


def in_words(key: Sequence[object]) -> str:
    data, net, size, shape, seed, _ = key
    seed_text = f", seed {seed}" if seed else ""
    return f"{NAMES[str(data)]} {net} {size} {NAMES[str(shape)]}{seed_text}"


def expectations(found: pd.DataFrame) -> list[Expectation]:
    before, early, after = (pairs(found, moment) for moment in ("before", "early", "after"))

    def level(table: pd.DataFrame, name: str) -> pd.Series:
        return table.index.get_level_values(name).to_series(index=table.index)

    def of(table: pd.DataFrame, feature: str, method: str) -> pd.Series:
        return table[feature, method].astype(float)

    ratio = {m: of(t, "first_to_last", "vanilla") for m, t in (("b", before), ("a", after))}
    deep = level(before, "size") >= 18
    very_deep = level(before, "size") >= 30
    atan = level(before, "surrogate") == "atan"
    sigmoid = level(before, "surrogate") == "sigmoid"
    plain = level(before, "net") == "plain"
    return [
        Expectation(
            "Vanilla, plain, at least 30 layers: before training the first convolution's gradient "
            "is below a tenth of the last one's",
            (ratio["b"] < 0.1)[very_deep & plain],
        ),
        Expectation(
            "Vanilla with Sigmoid, plain, at least 30 layers: before training the first "
            "convolution's gradient is larger than the last one's",
            (ratio["b"] > 1)[very_deep & sigmoid & plain],
        ),
        Expectation(
            "The same of the second convolution, which has as many weights as the last",
            (of(before, "second_to_last", "vanilla") > 1)[very_deep & sigmoid & plain],
        ),
        Expectation(
            "Vanilla with ATan, at least 18 layers: training makes that ratio smaller",
            (ratio["a"] < ratio["b"])[deep & atan],
        ),
        Expectation(
            "Before training, batches hardly agree in vanilla networks of at least 18 layers: "
            "median coherence below 0.1",
            (of(before, "coherence", "vanilla") < 0.1)[deep],
        ),
        Expectation(
            f"After {EARLY} epochs the median coherence is higher with shortcuts",
            of(early, "coherence", "shortcuts") > of(early, "coherence", "vanilla"),
        ),
        Expectation(
            "After training the main loss alone has a higher median coherence in the network "
            "trained with shortcuts",
            of(after, "coherence", "shortcuts") > of(after, "coherence", "vanilla"),
        ),
        Expectation(
            "At least 18 layers: shortcuts bring at least three points of accuracy",
            (of(after, "accuracy", "shortcuts") >= of(after, "accuracy", "vanilla") + 0.03)[deep],
        ),
        Expectation(
            "6 layers, too shallow for gradients to vanish: shortcuts cost at most two points",
            (of(after, "accuracy", "shortcuts") > of(after, "accuracy", "vanilla") - 0.02)[
                level(before, "size") == 6
            ],
        ),
    ]
