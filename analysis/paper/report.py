"""The page of the study of the paper's claims, from its tables alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.common.figures import Tables
from analysis.common.pages import markdown
from analysis.paper.claims import (
    DEPTHS,
    Verdict,
    accuracies,
    at_best_rate,
    best_rate,
    compared,
    first_claim,
    in_short,
    labelled,
    second_claim,
)
from analysis.paper.plan import BATCH, EPOCHS, IMAGES, METHODS, NAMES, RATE, RATES, Run

__all__ = ["write_page"]

HEAD = """# Do the paper's two claims hold?

Written by `analysis/paper` from the tables beside it; do not edit. `python -m analysis.paper` goes
on with what is missing and draws this page anew, `--report` only draws.

1. Vanilla < shortcuts (Eq. 6) < evolutionary training (Eq. 10).
2. Vanilla ResNet-34 is *worse* than vanilla ResNet-18, and the method turns that round.
"""

HOW = f"""## How it was measured

CIFAR-10 at 32 x 32 pixels: {10 * IMAGES:,} training images, 2,000 further ones for validation, on
which every choice rests, and 5,000 test images, touched once, at the end of each run, by the
network without heads. Cropped after padding by 4 pixels, and flipped; no AutoAugment. Spiking
ResNet-18 and -34 of SpikingJelly's basic blocks with a 3 x 3 stem, 8 channels in the first stage,
T = 2, LIF with τ = 2, no decay of the input, threshold 1 and hard reset to 0; ATan, as the paper
does not say which surrogate. AdamW at {RATE:g} (the paper's) with weight decay 0.02 and a cosine to
0; batches of {BATCH}; **{EPOCHS} epochs**, where the paper has 300 of 50,000 images at 64 channels.
Accuracies are to be compared with one another, not with published ones.

Vanilla is taken at the best of {RATES[0]:g}, {RATE:g} and {RATES[1]:g} by validation, all others at
{RATE:g}. Heads of Eq. 6 and 10 average over the whole map and sit at the end of each stage but the
last, whose feature the output reads itself; λ of Eq. 10 falls at every step. Runs of one network
and seed start from the same weights and see the same images; differences are of means, with
Welch's interval of 95 %. A seed alone has no interval, and answers nothing.
"""


def write_page(tables: Tables, figures: Mapping[str, str], planned: Sequence[Run]) -> str:
    """The text of RESULTS.md."""
    runs = tables["runs"]
    parts = [HEAD]
    if len(runs):
        runs = labelled(runs)
        chosen = at_best_rate(runs)
        parts += [
            unfinished(runs, planned),
            "\n".join(f"- {part}: **{said}**." for part, said in in_short(chosen).items()) + "\n",
            *(f"![{name}]({name})\n\n*{text}*\n" for name, text in figures.items()),
            "## Claim 1: vanilla < shortcuts < evolutionary\n",
            verdicts(first_claim(chosen)),
            "## Claim 2: deeper is worse, and the method turns it round\n",
            verdicts(second_claim(chosen)),
            "## What one would pick instead\n",
            "Each against vanilla, and the paper's better method against each.\n",
            verdicts(instead(chosen)),
            HOW,
            "## All methods\n",
            all_methods(chosen),
            "## Vanilla's learning rate\n",
            "Validation accuracy, mean over seeds.\n",
            rates(runs),
        ]
    if len(tables["full_width_runs"]):
        parts += ["## At full width, on a card\n", full_width(labelled(tables["full_width_runs"]))]
    parts.append(tables_section(tables))
    return "\n".join(part for part in parts if part)


def unfinished(runs: pd.DataFrame, planned: Sequence[Run]) -> str:
    """What is planned and not finished yet."""
    todo = [run for run in planned if run.key not in set(runs["run"])]
    if not todo:
        return "All planned runs are finished.\n"
    return (
        f"**Unfinished: {len(planned) - len(todo)} of {len(planned)} planned runs are done.** "
        'What says "not yet" below waits for the others.\n'
    )


def verdicts(found: Sequence[Verdict]) -> str:
    """A table: what was compared, the difference, and whether that answers it."""
    if not found:
        return "Not run yet.\n"
    rows = [
        {
            "is it so?": in_words(each.text),
            "points": with_interval(each),
            "seeds": f"{each.seeds[0]} and {each.seeds[1]}",
            "answer": each.answer,
        }
        for each in found
    ]
    return markdown(pd.DataFrame(rows))


def in_words(text: str) -> str:
    """Methods by their names."""
    for method, name in NAMES.items():
        text = text.replace(f"{method},", f"{name},")
    return text


def with_interval(verdict: Verdict) -> str:
    value, low, high = verdict.difference
    said = f"{value:+.1f}"
    return said if math.isnan(low) else f"{said} [{low:+.1f}, {high:+.1f}]"


def instead(runs: pd.DataFrame) -> list[Verdict]:
    """Losses at every time step, and SEW-ResNet, against vanilla and the method."""
    wanted = [
        pair
        for depth in DEPTHS
        for other in ("tet", "sew")
        for pair in (
            ((other, depth), ("vanilla", depth)),
            (("eq10", depth), (other, depth)),
            (("defaults", depth), (other, depth)),
        )
    ]
    found = [compared(runs, one, other) for one, other in wanted]
    return [each for each in found if each is not None]


def all_methods(runs: pd.DataFrame) -> str:
    """Accuracies, spikes and times of each method and depth."""
    rows = []
    for depth in DEPTHS:
        for method, name in NAMES.items():
            own = runs[(runs["method"] == method) & (runs["depth"] == depth)]
            if len(own):
                rows.append(one_method(own, f"ResNet-{depth}", name, method, depth))
    return markdown(pd.DataFrame(rows)) + "\n" + what_methods_are()


def one_method(
    own: pd.DataFrame, network: str, name: str, method: str, depth: int
) -> dict[str, object]:
    test = accuracies(own, method, depth)
    spread = f" ± {test.std(ddof=1):.1f}" if len(test) > 1 else ""
    together = own["test_with_heads"].mean()
    return {
        "network": network,
        "method": name,
        "seeds": len(own),
        "lr": f"{own['lr'].iloc[0]:g}",
        "test, %": f"{test.mean():.1f}{spread}",
        "validation, %": f"{100 * own['val_accuracy'].mean():.1f}",
        "with its heads, %": "" if math.isnan(together) else f"{100 * together:.1f}",
        "training loss": f"{own['train_loss'].mean():.3f}",
        "firing rate": f"{own['firing_rate'].mean():.3f}",
        "minutes": f"{own['seconds'].mean() / 60:.0f}",
    }


def what_methods_are() -> str:
    lines = [f"- {NAMES[method]}: {text}." for method, text in METHODS.items()]
    return "\n".join(lines) + (
        "\n\n± is the standard deviation over seeds. *With its heads* is the accuracy of the sum "
        "that Eq. 6 trains to the end, which the network alone was never asked to reach. Training "
        "loss is the output's alone, in the last epoch.\n"
    )


def rates(runs: pd.DataFrame) -> str:
    vanilla = runs[runs["method"] == "vanilla"]
    table = 100 * vanilla.pivot_table("val_accuracy", "depth", "lr")
    seeds = vanilla.pivot_table("val_accuracy", "depth", "lr", aggfunc="count")
    shown = pd.DataFrame(
        {
            f"{rate:g}": [
                f"{table[rate].get(depth, math.nan):.1f} ({seeds[rate].get(depth, 0):.0f})"
                if depth in table.index and not math.isnan(table[rate].get(depth, math.nan))
                else ""
                for depth in DEPTHS
            ]
            for rate in table.columns
        },
    )
    shown.insert(0, "network", [f"ResNet-{depth}" for depth in DEPTHS])
    shown["chosen"] = [f"{best_rate(runs, depth):g}" for depth in DEPTHS]
    return markdown(shown) + "\nIn brackets: seeds." + not_bracketed(vanilla) + "\n"


def not_bracketed(vanilla: pd.DataFrame) -> str:
    """Where the best rate is the lowest or highest tried, a better one may lie beyond it."""
    said = ""
    for depth in DEPTHS:
        tried = sorted(vanilla[vanilla["depth"] == depth]["lr"].unique())
        if tried and best_rate(vanilla, depth) in (tried[0], tried[-1]):
            said += f" **ResNet-{depth}: the best is at the edge of those tried so far.**"
    return said


def full_width(runs: pd.DataFrame) -> str:
    """One row a run, of each card and width."""
    columns = ["device", "width", "amp", "net", "depth", "method", "lr", "seed", "test_accuracy"]
    shown = runs[[*columns, "seconds"]].sort_values(columns[:-1], kind="stable")
    shown["method"] = shown["method"].map(NAMES)
    shown["test_accuracy"] = (100 * shown["test_accuracy"]).map("{:.1f}".format)
    shown["seconds"] = shown["seconds"].map("{:.0f}".format)
    return markdown(shown) + "\nThe same plan, as far as the minutes went (amp: mixed precision).\n"


def tables_section(tables: Tables) -> str:
    hours = tables["runs"]["seconds"].sum() / 3600 if len(tables["runs"]) else 0.0
    return f"""## Tables

- `runs.csv`: a row a run with all its settings, accuracies, spikes an inference, seconds of
  training ({hours:.1f} hours of one core in all), and the commit and versions it was made with.
  `python -m analysis.paper --repeat KEY` does the run with that key (column `run`) again.
- `history.csv`: loss of the output, λ and seconds so far, by epoch.
- `full_width_runs.csv`, `full_width_history.csv`: the same of `--device cuda`, where it was run.
"""
