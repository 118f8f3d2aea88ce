"""The page of the study of vanishing gradients, from its tables alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.common.figures import Tables
from analysis.common.pages import markdown
from analysis.gradient_vanishing.expectations import expectations, features, in_words, pairs
from analysis.gradient_vanishing.figures import focus
from analysis.gradient_vanishing.run import (
    BATCH,
    EARLY,
    KEYS,
    LAYERS_PER_HEAD,
    LEARNING_RATE,
    MEASURED_BATCH,
    MEASURED_BATCHES,
    METHODS,
    WIDTH,
    T,
)

__all__ = ["write_page"]


def rank_correlation(found: pd.DataFrame, feature: str) -> float:
    """Of a feature after the first epochs with the accuracy at the end, over runs on digits."""
    rows = found[
        (found["epoch"] == found["epochs"].clip(upper=EARLY)) & (found["data"] == "digits")
    ]
    return float(rows[feature].rank().corr(rows["accuracy"].rank()))


def short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.2g}"


def hundredths(number: float) -> str:
    return f"{round(number, 2) + 0:.2f}"  # adding 0 takes the sign off -0


def table_of_cases(found: pd.DataFrame) -> str:
    """Every case in one line: vanilla → shortcuts."""
    before, early, after = (pairs(found, moment) for moment in ("before", "early", "after"))
    rows = []
    for key in before.index:
        cells = [in_words(key)]
        for table, feature in (
            (before, "first_to_last"),
            (after, "first_to_last"),
            (before, "coherence"),
            (early, "coherence"),
            (after, "coherence"),
        ):
            vanilla, shortcuts = (float(table.loc[key, (feature, m)]) for m in METHODS)
            form = short if feature == "first_to_last" else hundredths
            cells.append(f"{form(vanilla)} → {form(shortcuts)}")
        vanilla, shortcuts = (float(after.loc[key, ("accuracy", m)]) for m in METHODS)
        cells.append(f"{vanilla:.1%} → {shortcuts:.1%}")
        rows.append(cells)
    header = [
        "case",
        "first / last norm, before",
        "first / last norm, after",
        "coherence before",
        f"coherence, {EARLY} epochs",
        "coherence after",
        "test accuracy",
    ]
    return markdown(pd.DataFrame(rows, columns=header)).rstrip("\n")


PAGE = """# Where does the gradient die?

Written by `analysis/gradient_vanishing` from the tables beside it; do not edit.
{made_by}

Plain and residual networks of LIF neurons with batch norm, {width} channels, T = {steps}, halved in
resolution once; heads one for every {spacing} layers, which average over all of the map, λ = 1 for
half of the epochs, then falling linearly to 0. SGD at {rate} with momentum 0.9 and a cosine to 0,
batches of {batch}, no augmentation. Digits: {digits_epochs} epochs of 1,442 images; other data,
where shown: fewer (column `epochs` of `runs.csv`), 1,000 CIFAR-10 images and 800 N-MNIST recordings
at 16 x 16 pixels. Vanilla and shortcuts start from the same weights and see the same batches.
Coherence is measured over {measured} batches of {measured_size}. "First" and "last" are
convolutions; the classifier is left out. A median is one over layers. This is a small study:
accuracies are those of short trainings, to be compared with one another and not with published
ones.

## In short

{in_short}

{see_it}

## What was expected, and what came

{expectations}

## All cases

vanilla → shortcuts; coherence is the median over convolutions. After training λ is 0, so the
columns about it are about the main loss alone, in both.

{cases}

## Figures

{figures}

## Tables

- `runs.csv`: a row a run, with its accuracy on the test set and CPU seconds ({seconds:.0f} in all,
  one thread each).
- `history.csv`: training loss of the output alone, and test accuracy, for each epoch.
- `gradients.csv`: a row a layer and measurement, as from `gradient_flow`.
- `sources.csv`: the same split by the loss it comes from, after {early} epochs.
"""


def in_short(found: pd.DataFrame, tables: Tables) -> str:
    shown = {"data": "digits", "net": "plain", "surrogate": "atan", "seed": 0}
    rows = found
    for column, value in shown.items():
        rows = rows[rows[column] == value]
    lines = []
    if len(rows):
        rows = rows[rows["size"] == focus(tables)]
        size = rows["size"].iloc[0]
        now = rows[rows["epoch"] == rows["epochs"].clip(upper=EARLY)].set_index("method")
        vanilla, shortcuts = now.loc["vanilla"], now.loc["shortcuts"]
        lines.append(
            f"- Plain, {size} layers, ATan, after {now['epoch'].iloc[0]} epochs: batches agree no "
            f"more than random directions would on {vanilla.incoherent} of {vanilla.layers} "
            f"convolutions of the vanilla network, and on {shortcuts.incoherent} with shortcuts. "
            f"Accuracy after training: {vanilla.accuracy:.1%} and {shortcuts.accuracy:.1%}."
        )
    start = found[(found["epoch"] == 0) & (found["method"] == "vanilla")]
    start = start[(start["second_to_last"] > 1) & (start["size"] >= 18)]
    if len(start):
        cases = "; ".join(
            f"{in_words([*(row[key] for key in KEYS if key != 'method')])} "
            f"({short(row['second_to_last'])} times, ends at {row['accuracy']:.1%})"
            for _, row in start.iterrows()
        )
        lines.append(
            "- Norms alone mislead: vanilla networks of at least 18 layers whose second "
            "convolution gets, before training, a *larger* gradient than their last one: "
            f"{cases}."
        )
    said = []
    for name, rows in (
        ("all", found),
        ("the vanilla ones", found[found["method"] == "vanilla"]),
        ("those with shortcuts", found[found["method"] == "shortcuts"]),
    ):
        norm, coherence = (rank_correlation(rows, f) for f in ("first_to_last", "coherence"))
        said.append(f"{coherence:+.2f} and {norm:+.2f} over {name}")
    trainings = int((tables["runs"]["data"] == "digits").sum())
    lines.append(
        f"- How far the numbers of epoch {EARLY} foretell the accuracy at the end: rank "
        f"correlation over the {trainings} trainings on digits, of the median coherence and of the "
        f"first layer's norm over the last one's: {'; '.join(said)}. (With shortcuts both numbers "
        "are about the heads' losses too, and say little about the output's.)"
    )
    return "\n".join(lines)


def write_page(tables: Tables, figures: dict[str, str], made_by: str) -> str:
    """The text of RESULTS.md."""
    runs = tables["runs"]
    found = features(tables)
    digits = runs[runs["data"] == "digits"]
    return PAGE.format(
        made_by=made_by,
        width=WIDTH,
        steps=T,
        spacing=LAYERS_PER_HEAD,
        rate=LEARNING_RATE,
        batch=BATCH,
        digits_epochs=", ".join(map(str, sorted(digits["epochs"].unique()))),
        measured=MEASURED_BATCHES,
        measured_size=MEASURED_BATCH,
        in_short=in_short(found, tables),
        see_it="![coherence of each layer](see_it.png)" if "see_it.png" in figures else "",
        expectations="\n".join(str(e) for e in expectations(found) if len(e.met)),
        cases=table_of_cases(found),
        figures="\n\n".join(
            f"![{Path(name).stem}]({name})\n\n*{text}*" for name, text in figures.items()
        ),
        seconds=runs["seconds"].sum(),
        early=EARLY,
    )
