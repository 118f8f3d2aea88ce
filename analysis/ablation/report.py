"""The page of the ablation study, from its tables alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.ablation.aims import aims, aims_at_best_rates
from analysis.ablation.caveats import (
    added_seeds_section,
    place_of_best,
    rates_sentence,
    spikes_sentence,
    with_rate,
)
from analysis.ablation.figures import present
from analysis.ablation.gains import networks_section
from analysis.ablation.run import Run
from analysis.ablation.statistics import (
    best_rates,
    differences,
    firing_by_place,
    foretold,
    labelled,
    seeds_correlate,
    times_to_vanilla,
    vanillas_gradients,
)
from analysis.ablation.summed import SCHEDULE, summed_section, without_grid
from analysis.common.figures import Tables
from analysis.common.pages import markdown

__all__ = ["by_setting", "write_page"]

HEAD = """# Do shortcuts help, where, and by how much?

Written by `analysis/ablation` from the tables beside it; do not edit. `python
-m analysis.ablation` goes on with what is missing and draws this page anew, `--report` only draws.
"""

HOW = """## How it was measured

Networks for small images in three stages (16, 32 and 64 channels on digits, half as many on the
other data): `plain` is convolution, batch norm and LIF, as often as the depth says; `resnet` and
`sew` are 20 layers of SpikingJelly's basic blocks. LIF with τ = 2 and no decay of the input, T = 2
(4 on N-MNIST) if not said otherwise. SGD with momentum 0.9, weight decay 1e-4, learning rate 0.1
if not said otherwise, falling to 0 by a cosine; no augmentation. In settings called `clipped`, the
norm of the whole gradient, that of heads included, is kept to 1 at most.

Data: digits (scikit-learn's 1,797, 8 x 8), Fashion-MNIST (4,000 images for training, 1,000 for
testing, 14 x 14), N-MNIST (800 recordings for training, 100 for testing, as frames of 16 x 16),
CIFAR-10 (8,000 images for training, 1,000 for testing, 16 x 16). A fifth of the training data of
each class is for validation, and every choice rests on it; the test data are touched once, at the
end of each run, by the network without heads. Of N-MNIST, one test image is a whole point. Digits:
15 epochs of batches of 32; Fashion-MNIST: 12 of 50; N-MNIST: 30 of 32; CIFAR-10: 10 of 50.

Runs of one seed have the same weights at first and see the same batches, but that does not make
them alike in the end, so they are not taken as pairs: means are over the seeds that both methods
have, intervals of 95 % are Welch's. Digits have five seeds and the other data three as planned.
**Where vanilla fails on these, vanilla and `handover` got two more after a look at the intervals
of test accuracy with three**, which were wide: such intervals are no longer what they say, and
those of the planned seeds alone are in a section of their own. (Settings with clipped gradients
came later, with five.) What was tried first and is no longer in the
plan has one to three. Time is the processor's, of one thread, of training alone; the processor was
shared.

Methods are named by their schedule: `handover` is `HandoverSchedule`, `hold-linear` is λ = 1 for
half of the epochs, then falling to 0 in a line; the others are in `run.py` and `rules.py` of
`analysis/ablation`. If not said otherwise they have the library's defaults, but that heads, at
`"auto"`, average over 2 x 2 parts of space everywhere (`average`: over all of it; `grid4`: over
4 x 4 parts, the default where that adds at most 10 % to the parameters); losses added, λ₀ = 1.
`every:3` is a head every third layer.

These are short trainings of small networks on little data: accuracies are to be compared with one
another, not with published ones.
"""


def write_page(tables: Tables, figures: Mapping[str, str], planned: Sequence[Run]) -> str:
    everything = tables["runs"]
    runs = without_grid(everything)
    tables = {**tables, "runs": runs}
    parts = [
        HEAD,
        missing(everything, planned),
        HOW,
        "## What it was to show\n",
        "Of the library's defaults (`handover`):\n",
        aims(tables, "handover"),
        "Of the same at the best of the learning rates run with it, by validation, where there are "
        "several:\n",
        aims_at_best_rates(tables, "handover"),
        "The same with the best fixed schedule (`hold-linear`):\n",
        aims(tables, "hold-linear"),
        "And with heads that average over all of space, as the paper's:\n",
        aims(tables, "hold-linear, average"),
        "## If one may choose the network\n",
        "Of every network, number of steps and learning rate run with at least three seeds, that "
        "of the highest mean validation accuracy, without and with shortcuts (the defaults): test "
        "accuracy, in brackets seeds, and the difference with Welch's interval. Where others have "
        "the same validation accuracy, the range of all is given.\n",
        networks_section(runs),
        "## Against vanilla at the best of the learning rates run\n",
        "Test accuracy; vanilla's learning rate is the best of those run, by validation, and its "
        "accuracy that over the seeds of the method of most seeds. "
        "Shortcuts have 0.1, but for the last column: the defaults at the best of their rates. In "
        "square brackets intervals, in round ones seeds.\n",
        rates_sentence(runs),
        against_vanilla(runs),
        f"Over the seeds of a setting, test accuracies of vanilla and of the defaults correlate by "
        f"{seeds_correlate(runs, 'handover'):+.2f} (mean over settings of four seeds or more).\n",
        "## Seeds added after a look at test intervals\n",
        "Points of test accuracy of the defaults over vanilla at the best of the rates run (of the "
        "seeds in question), where data other than digits have more than three seeds; settings "
        "with clipped gradients were planned with five.\n",
        added_seeds_section(runs),
        "## Against vanilla with a quarter more epochs\n",
        "Both at learning rate 0.1, the only one at which more epochs were run: where vanilla is "
        "better at another, so would this be.\n",
        "That is more time than shortcuts take: they cost "
        f"{cost(runs):+.0%} of the training time (median over pairs, "
        "here of very small networks).\n",
        against_longer(runs),
        "## Which schedule, which rule, which places\n",
        "Points of validation accuracy over hold-linear, mean over the settings in which both were "
        "run.\n",
        methods(runs),
        "Validation accuracy of those that have all seeds of a setting, in the settings in which "
        "most were tried.\n",
        by_setting(runs),
        "## Summed logits and summed losses, each at its best\n",
        "The paper adds logits, with λ₀ = 0.25 and λ falling to 0 in a line, step by step. Tried "
        "here with λ₀ of 0.1, 0.25, 0.5 and 1, heads over the whole map (`average`) and over 2 x 2 "
        "parts, at the ends of stages and at `auto`, and the same of summed losses. Best is by "
        "validation; accuracies are of test data, in brackets seeds; the difference is of means, "
        "with Welch's interval of 95 %.\n",
        summed_section(everything, *grid_size(planned)),
        "## Time to vanilla's final accuracy\n",
        "As a share of vanilla's whole training; `inf`: not reached.\n",
        times(tables),
        "## The first layers' gradients\n",
        "Vanilla's: the first layer's norm over the last convolution's, before training and after "
        "two epochs (medians), and the mean coherence of the first three layers after two. Norms "
        "far above 1 are gradients that explode, as they do with the rectangle.\n",
        early_gradients(tables),
        "What they foretell: rank correlation of both measures after two epochs with final "
        "validation accuracy, over all runs of a data set.\n",
        markdown(foretold(runs, tables["gradients"]).round(2)),
        "## Firing\n",
        "Spikes of an inference of the network handed back, over vanilla's at the same rate.\n",
        spikes_sentence(runs),
        firing(runs),
        "Where in the network: mean firing rate of the first, middle and last third of the layers, "
        "untrained / vanilla's / with handover; untrained is on batches of training, normalized as "
        "in training. Recorded in the later runs only.\n",
        firing_places(tables),
        "## Figures\n",
        *(f"![{name}]({name})\n\n*{text}*\n" for name, text in figures.items()),
        tables_section(everything),
    ]
    return "\n".join(part for part in parts if part)


def missing(runs: pd.DataFrame, planned: Sequence[Run]) -> str:
    """What is planned and not finished yet."""
    finished = set(runs["run"])
    todo = [run for run in planned if run.key not in finished]
    if not todo:
        return "All planned runs are finished.\n"
    frame = labelled(pd.DataFrame([vars(run) | {"run": run.key} for run in todo]))
    counts = frame.groupby("setting", sort=False).size()
    listed = ", ".join(f"{name} ({count})" for name, count in counts.items())
    return (
        f"**Unfinished: {len(finished)} runs are in the tables, {len(todo)} of those planned are "
        f"not.** Missing by setting: {listed}. Where fewer than three seeds are done, read "
        "differences as hints.\n"
    )


def grid_size(planned: Sequence[Run]) -> tuple[int, int]:
    """Settings, and methods of each way of adding up in one of them, that are planned."""
    grid = [run for run in planned if run.schedule == SCHEDULE and run.combine == "logits"]
    methods = {(run.at, run.head, run.start) for run in grid}
    settings = {(run.data, run.net, run.depth, run.surrogate) for run in grid}
    return len(settings), len(methods)


def main_methods(runs: pd.DataFrame) -> list[str]:
    return [method for method in present(runs) if method != "vanilla"]


def with_interval(row: pd.Series) -> str:
    if not row["n"]:
        return ""
    said = f"{100 * row['difference']:+.1f}"
    if np.isfinite(row["low"]):
        said += f" [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    return f"{said} ({row['n']:.0f})"


def compared(table: pd.DataFrame, rates: pd.Series | None = None) -> str:
    """A row a setting: vanilla, then each method's difference with interval and seeds.

    Args:
        table: As of `differences`; the learning rates of methods are said if it has them.
        rates: What to say of vanilla's rate, by setting.
    """
    lines = []
    for name, rows in table.groupby("setting", sort=False):
        base = f"{rows.sort_values('n', ascending=False, kind='stable')['base'].iloc[0]:.1%}"
        if rates is not None:
            base += f" ({rates[name]})"
        line = {"setting": str(name), "vanilla": base}
        for _, row in rows.iterrows():
            said = with_interval(row)
            if np.isfinite(row.get("rate", np.nan)):
                said += f" lr {row['rate']:g}"
            line[str(row["method"])] = said
        lines.append(line)
    return markdown(pd.DataFrame(lines).fillna(""))


def against_vanilla(runs: pd.DataFrame) -> str:
    table = differences(runs, main_methods(runs), best_rate=True)
    tuned = differences(runs, ["handover"], best_rate=True, own_rate=True)
    rates = tuned["setting"].map(best_rates(runs, "handover"))
    tuned["method"] = "handover, best rate"
    best, places = best_rates(runs), place_of_best(runs)
    said = pd.Series({name: with_rate(best[name], place) for name, place in places.items()})
    return compared(pd.concat([table, tuned.assign(rate=rates)], ignore_index=True), said)


def against_longer(runs: pd.DataFrame) -> str:
    table = differences(runs, main_methods(runs), longer=True)
    return compared(table) if len(table) else "Not run yet.\n"


def cost(runs: pd.DataFrame) -> float:
    """Median share of training time that hold-linear costs."""
    usual = runs[runs["usual"]]
    both = usual[usual["method"] == "hold-linear"].merge(
        usual[usual["method"] == "vanilla"], on=["setting", "seed"], suffixes=("", "_base")
    )
    return float((both["seconds"] / both["seconds_base"]).median() - 1) if len(both) else np.nan


def methods(runs: pd.DataFrame) -> str:
    others = [method for method in runs["method"].unique() if method != "hold-linear"]
    table = differences(runs, others, "hold-linear", "val_accuracy")
    if table.empty:
        return "Not run yet.\n"
    table["points"] = 100 * table["difference"]
    grouped = table.groupby("method")
    mean = grouped["points"].agg(["mean", "min", "max"]).round(2)
    mean.columns = ["mean over settings", "worst setting", "best setting"]
    mean["settings"] = grouped.size()
    mean["seeds"] = grouped["n"].sum()
    return markdown(mean.sort_values("mean over settings", ascending=False).reset_index())


def by_setting(runs: pd.DataFrame) -> str:
    """Accuracy of each method in the settings of many methods; most accurate methods first."""
    usual = runs[runs["usual"]]
    seeds = usual.groupby(["setting", "method"])["seed"].transform("nunique")
    usual = usual[seeds == seeds.groupby(usual["setting"]).transform("max")]
    tried = usual.groupby("setting")["method"].nunique()
    usual = usual[usual["setting"].isin(tried.index[tried >= max(3, tried.max() / 2)])]
    table = usual.pivot_table(index="method", columns="setting", values="val_accuracy", sort=False)
    # Means of unlike settings would not compare: what is missing counts as the setting's median.
    order = table.fillna(table.median()).mean(axis=1).sort_values(ascending=False).index
    shown = table.loc[order].map(lambda share: "" if np.isnan(share) else f"{share:.1%}")
    return markdown(shown.reset_index())


def times(tables: Tables) -> str:
    columns = {}
    for method in main_methods(tables["runs"]):
        table = times_to_vanilla(tables["runs"], tables["history"], method)
        columns[method] = table.set_index("setting")["share"].round(2)
    frame = pd.DataFrame(columns).dropna(how="all")
    return markdown(frame.astype(object).fillna("").reset_index(names="setting"))


def early_gradients(tables: Tables) -> str:
    table = vanillas_gradients(tables["runs"], tables["gradients"])
    shown = pd.DataFrame(
        {
            "norm, untrained": table["before"].map(two_digits),
            "norm, two epochs": table["later"].map(two_digits),
            "coherence, two epochs": table["coherence"].map("{:.2f}".format),
            "final validation accuracy": table["val_accuracy"].map("{:.1%}".format),
        }
    )
    return markdown(shown.reset_index())


def two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"  # 840, not 8.4e+02


def firing(runs: pd.DataFrame) -> str:
    table = differences(runs, main_methods(runs), value="spikes")
    table["ratio"] = (table["mean"] / table["base"]).round(2)
    frame = table.pivot_table(index="setting", columns="method", values="ratio", sort=False)
    return markdown(frame.astype(object).fillna("").reset_index())


def firing_places(tables: Tables) -> str:
    if tables["firing"].empty:
        return "Not run yet.\n"
    rates = firing_by_place(tables["runs"], tables["firing"], "handover")
    lines = [
        {"setting": name}
        | {
            third: " / ".join(
                f"{row.get((third, kind), np.nan):.3f}".replace("nan", "–")
                for kind in ("untrained", "vanilla", "handover")
            )
            for third in ("first", "middle", "last")
        }
        for name, row in rates.iterrows()
    ]
    return markdown(pd.DataFrame(lines)) if lines else "Not run yet.\n"


def tables_section(runs: pd.DataFrame) -> str:
    hours = runs["seconds"].sum() / 3600
    return f"""## Tables

- `runs.csv`: a row a run with all its settings, accuracies, spikes an inference, and seconds of
  training ({hours:.1f} hours of one core in all). `python -m analysis.ablation --repeat KEY` does
  the run with that key (column `run`) again: same data, network, weights at first, batches and
  number of threads. On the machine and with the PyTorch that made it, it gives the same figures. On
  another CPU rounding differs, and where a network hardly trains that decides: the same seed of
  vanilla came out 10 to 30 points apart (one row 61.8, then 81.1 %). What should hold there are
  means over seeds, within their intervals, not rows.
- `history.csv`: loss of the output, validation accuracy, λ (mean over heads) and seconds so far, by
  epoch.
- `heads.csv`: validation accuracy and λ of each head by epoch.
- `firing.csv`: firing rate of each layer of the network handed back, on test data, and of the
  untrained one, on batches of training; later runs only.
- `gradients.csv`: gradient norm and coherence of the first three layers and the last convolution.
"""
