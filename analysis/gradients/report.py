"""The page of the study of the first layer's gradients, from its tables alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.common.figures import Tables
from analysis.common.pages import markdown
from analysis.gradients.figures import labelled, root_mean_square
from analysis.gradients.plan import BATCH, MEASURED, METHODS, STEPS, SURROGATES, WIDTH, Run

__all__ = ["measures", "write_page"]

HEAD = """# The paper's Fig. 2, redrawn

Written by `analysis/gradients` from the tables beside it; do not edit. `python -m
analysis.gradients` goes on with what is missing and draws this page anew.

The paper shows the distribution of the gradients of the first layer of a spiking ResNet-34 with 4
time steps on CIFAR-100: with vanilla training it is peaked at 0, with shortcuts it is flatter.
"""

HOW = f"""## How it was measured

Spiking ResNet-34 of SpikingJelly's basic blocks with a 3 x 3 stem (`analysis/paper/nets.py`),
T = 4, {WIDTH} channels in the first stage, on CIFAR-10 at 32 x 32 pixels where the paper has
CIFAR-100; LIF as in the paper. It names three surrogate functions and does not say which it uses:
here are {" and ".join(SURROGATES.values())}. Shortcuts are those of its Eq. 6: heads that average
over the whole map, at the ends of stages, logits added with λ = 1. AdamW at 0.01, weight decay
0.02, batches of {BATCH}, {STEPS} steps, one seed. Gradients are those of the loss that each
method trains, on {MEASURED} batches of images cropped and flipped, the same for all; both methods
start from the same weights.
"""


def write_page(tables: Tables, figures: Mapping[str, str], planned: Sequence[Run]) -> str:
    """The text of RESULTS.md."""
    found = measures(tables)
    parts = [HEAD, unfinished(tables["runs"], planned)]
    parts += [f"![{name}]({name})\n\n*{text}*\n" for name, text in figures.items()]
    parts += ["## Does it look like theirs?\n", answers(found), losses(tables["runs"])]
    parts += [table(found), HOW]
    seconds = tables["runs"]["seconds"].sum()
    parts.append(
        "## Tables\n\n"
        f"- `runs.csv`: a row a run with its settings, loss of the output over the last quarter "
        f"of the steps, and seconds ({seconds / 60:.0f} minutes of one core in all).\n"
        "- `bins.csv`: how many gradients of the first layer lie between `low` and `high`.\n"
    )
    return "\n".join(part for part in parts if part)


def unfinished(runs: pd.DataFrame, planned: Sequence[Run]) -> str:
    """What is planned and not finished yet."""
    todo = [run for run in planned if run.key not in set(runs["run"])]
    done = len(planned) - len(todo)
    return f"**Unfinished: {done} of {len(planned)} planned runs are done.**\n" if todo else ""


def measures(tables: Tables) -> pd.DataFrame:
    """Of each surrogate, method and step: size, peak and tails of the gradients."""
    rows = []
    bins = labelled(tables)
    for (surrogate, method, step), part in bins.groupby(["surrogate", "method", "step"]):
        size = root_mean_square(part)
        middle = ((part["low"] + part["high"]) / 2).abs()
        share = part["count"] / part["count"].sum()
        rows.append(
            {
                "surrogate": surrogate,
                "method": method,
                "step": step,
                "rms": size,
                "near_zero": float(share[middle < size / 10].sum()),
                "kurtosis": float((middle**4 * share).sum() / size**4),
                "zero": float(share[part["low"] == part["high"]].sum()),
            }
        )
    return pd.DataFrame(rows)


def answers(found: pd.DataFrame) -> str:
    """Of each panel, whether shortcuts flatten the distribution, and by how much."""
    lines = []
    for surrogate, name in SURROGATES.items():
        for step in sorted(found["step"].unique()):
            here = found[(found["surrogate"] == surrogate) & (found["step"] == step)]
            sizes = here.set_index("method")["rms"]
            if not {"vanilla", "eq6"} <= set(sizes.index):
                continue
            when = "Before training" if step == 0 else f"After {step} steps"
            lines.append(f"- {when}, {name}: **{verdict(sizes['eq6'] / sizes['vanilla'])}**.")
    return "\n".join(lines) + "\n"


def losses(runs: pd.DataFrame) -> str:
    """What the sizes do not say: how well the networks train."""
    said = []
    for surrogate, name in SURROGATES.items():
        by_method = runs[runs["surrogate"] == surrogate].set_index("method")["loss"]
        if {"vanilla", "eq6"} <= set(by_method.index):
            both = f"{by_method['vanilla']:.2f} without and {by_method['eq6']:.2f} with shortcuts"
            said.append(f"{both} ({name})")
    return (
        "Wider is not better trained: the output's own loss over the last quarter of the steps is "
        f"{', '.join(said)}. With shortcuts it is the sum of all logits that is trained.\n"
    )


def verdict(times: float) -> str:
    """What a ratio of sizes, with shortcuts over vanilla, says of the paper's figure."""
    if times > 1.5:
        return f"as in theirs, {times:.1f} times as wide with shortcuts"
    if times > 1 / 1.5:
        return f"not as in theirs, nearly the same with and without ({times:.2f} times as wide)"
    return f"the other way round, {1 / times:.1f} times as wide without shortcuts"


def table(found: pd.DataFrame) -> str:
    """The numbers behind the answers."""
    shown = pd.DataFrame(
        {
            "surrogate": found["surrogate"].map(SURROGATES),
            "steps": found["step"],
            "method": found["method"].map(METHODS),
            "RMS": found["rms"].map("{:.2e}".format),
            "smaller than a tenth of it": found["near_zero"].map("{:.0%}".format),
            "exactly 0": found["zero"].map("{:.1%}".format),
            "kurtosis": found["kurtosis"].map("{:.1f}".format),
        }
    )
    order = shown.sort_values(["surrogate", "steps", "method"], ascending=[True, True, False])
    note = "A normal distribution has a kurtosis of 3 and 8 % within a tenth of its RMS.\n"
    return f"{markdown(order)}\n{note}"
