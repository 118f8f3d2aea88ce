"""Figures and page of the study of vanishing gradients, from its tables alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from gradient_vanishing_run import (
    BATCH,
    EARLY,
    KEYS,
    LAYERS_PER_HEAD,
    LEARNING_RATE,
    MAPPED,
    MEASURED_BATCH,
    MEASURED_BATCHES,
    METHODS,
    WIDTH,
    T,
    middle,
)
from matplotlib.figure import Figure

from sj_shortcut import (
    plot_gradient_coherence,
    plot_gradient_flow,
    plot_gradient_heatmap,
    plot_gradient_sources,
    plot_history,
    summarize,
)

Tables = Mapping[str, pd.DataFrame]

NETS = ("plain", "resnet")

# Figures.


def draw_all(tables: Tables, folder: Path) -> dict[str, str]:
    """Draw every figure there are rows for; file name → what it shows."""
    size = f"{focus(tables)} layers"
    drawn = {}
    for name, draw in FIGURES.items():
        figure = draw(tables)
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=DPI)
            plt.close(figure)
            drawn[f"{name}.png"] = " ".join((draw.__doc__ or "").split()).replace("@", size)
    return drawn


def focus(tables: Tables) -> int:
    """The depth that figures of one network show."""
    return middle(tables["runs"]["size"])


def case(table: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """The rows of one case, vanilla before shortcuts."""
    if not len(table):
        return table
    wanted = {"data": "digits", "net": "plain", "surrogate": "atan", "seed": 0, **wanted}
    for column, value in wanted.items():
        if value is not None:
            table = table[table[column] == value]
    return table.sort_values("method", key=lambda names: names.map(METHODS.index), kind="stable")


def panels(rows: int, columns: int, height: float) -> tuple[Figure, np.ndarray]:
    figure, axes = plt.subplots(
        rows, columns, figsize=(7.0, height), layout="constrained", sharey="row", squeeze=False
    )
    return figure, axes


def legend_above(figure: Figure, axes: np.ndarray, every_name: bool = False) -> None:
    """One legend for all panels, that of the one with most entries, and one label below."""
    legends = [ax.get_legend() for ax in axes.flat if ax.get_legend() is not None]
    if legends:
        most = max(legends, key=lambda legend: len(legend.get_texts()))
        figure.legend(
            most.legend_handles,
            [text.get_text() for text in most.get_texts()],
            loc="outside upper center",
            ncols=5,
            frameon=False,
            fontsize="small",
        )
    for legend in legends:
        legend.remove()
    label = ""
    for ax in axes.flat:
        names = ax.xaxis.get_tick_params()["labelbottom"]
        ax.label_outer()
        label = ax.get_xlabel() or label
        ax.set_xlabel("")
        if every_name:  # rows of different networks have different layers
            ax.xaxis.set_tick_params(labelbottom=names)
    figure.supxlabel(label, fontsize="small")


def moments(rows: pd.DataFrame) -> dict[str, int]:
    """Title and epoch of the three times at which every run is measured."""
    last = int(rows["epochs"].max())
    first = min(EARLY, last)
    return {"before training": 0, f"after {first} epochs": first, f"after all {last} epochs": last}


def early(tables: Tables, **wanted: object) -> pd.DataFrame:
    """Gradients of a case after the first epochs."""
    rows = case(tables["gradients"], **wanted)
    return rows[rows["epoch"] == rows["epochs"].clip(upper=EARLY)] if len(rows) else rows


def figure_see_it(tables: Tables) -> Figure | None:
    """Do batches agree? Plain network, @, after two epochs of digits."""
    rows = early(tables, size=focus(tables))
    if rows.empty:
        return None
    ax = plot_gradient_coherence(rows, hue="method")
    return ax.figure


def figure_flow(tables: Tables) -> Figure | None:
    """Norm (above) and coherence (below) of each layer's gradient: plain, @, ATan, digits.
    After training λ is 0, so what is shown there is the gradient of the main loss alone."""
    rows = case(tables["gradients"], size=focus(tables))
    if rows.empty:
        return None
    figure, axes = panels(2, 3, 4.4)
    for (title, epoch), upper, lower in zip(moments(rows).items(), *axes, strict=True):
        now = rows[rows["epoch"] == epoch]
        plot_gradient_flow(now, hue="method", ax=upper, legend=False)
        plot_gradient_coherence(now, hue="method", ax=lower)
        upper.set_title(title, fontsize="medium")
    legend_above(figure, axes)
    return figure


def figure_depths(tables: Tables) -> Figure | None:
    """Coherence after two epochs by depth: plain (above) and residual networks (below), ATan."""
    rows = early(tables, net=None)
    nets = [net for net in NETS if len(rows) and (rows["net"] == net).any()]
    if not nets:
        return None
    sizes = sorted(rows["size"].unique())
    figure, axes = panels(len(nets), len(sizes), 2.3 * len(nets))
    for line, net in zip(axes, nets, strict=True):
        for ax, size in zip(line, sizes, strict=True):
            now = rows[(rows["net"] == net) & (rows["size"] == size)]
            ax.set_title(f"{net}, {size} layers", fontsize="medium")
            if len(now):
                plot_gradient_coherence(now, hue="method", ax=ax)
            else:
                ax.set_axis_off()
    legend_above(figure, axes, every_name=True)
    return figure


def figure_surrogates(tables: Tables) -> Figure | None:
    """Norm of each layer's gradient by surrogate function: plain, @, vanilla."""
    rows = case(tables["gradients"], surrogate=None, size=focus(tables), method="vanilla")
    if rows.empty:
        return None
    rows = rows.sort_values("surrogate", key=lambda names: names.map(list(NAMES).index))
    rows = rows.assign(surrogate=rows["surrogate"].map(NAMES))
    figure, axes = panels(1, 3, 2.6)
    for (title, epoch), ax in zip(moments(rows).items(), axes[0], strict=True):
        plot_gradient_flow(rows[rows["epoch"] == epoch], hue="surrogate", ax=ax)
        ax.set_title(title, fontsize="medium")
    legend_above(figure, axes)
    return figure


def figure_accuracy(tables: Tables) -> Figure | None:
    """Test accuracy after training over depth, on digits. Chance is 10 %, the dotted line."""
    kinds = [("plain", "atan"), ("resnet", "atan"), ("plain", "sigmoid"), ("plain", "rect")]
    found = [(kind, case(tables["runs"], net=kind[0], surrogate=kind[1])) for kind in kinds]
    found = [(kind, rows) for kind, rows in found if len(rows)]
    if not found:
        return None
    sizes = sorted(pd.concat([rows for _, rows in found])["size"].unique())
    figure, axes = panels(1, len(found), 2.2)
    for ((net, shape), rows), ax in zip(found, axes[0], strict=True):
        plot_history(rows, x="size", y=["accuracy"], hue="method", ax=ax)
        ax.axhline(0.1, color="0.6", lw=0.8, ls=":")
        ax.set(ylim=(0, 1), xticks=sizes, xlim=(sizes[0] - 2, sizes[-1] + 2))
        ax.set_xlabel("layers", fontsize="small")
        ax.set_title(f"{net}, {NAMES[shape]}", fontsize="medium")
    legend_above(figure, axes)
    return figure


def figure_map(tables: Tables) -> Figure | None:
    """Coherence of each layer over the epochs: plain, @, ATan, digits."""
    rows = case(tables["gradients"], size=MAPPED[2])
    if rows.empty:
        return None
    figure, axes = panels(1, 2, 3.2)
    for method, ax in zip(METHODS, axes[0], strict=True):
        plot_gradient_heatmap(rows[rows["method"] == method], column="coherence", ax=ax)
        ax.collections[0].set_clim(0, 1)
        ax.set_title(method, fontsize="medium")
        ax.label_outer()
    return figure


def figure_sources(tables: Tables) -> Figure | None:
    """Which loss feeds which layer after two epochs: plain, @, ATan, digits."""
    rows = case(tables["sources"], size=focus(tables))
    return None if rows.empty else plot_gradient_sources(rows).figure


def figure_history(tables: Tables) -> Figure | None:
    """Training loss (of the output alone) and test accuracy: plain, @, ATan, both seeds."""
    rows = case(tables["history"], size=focus(tables), seed=None)
    return None if rows.empty else plot_history(rows, hue="method").figure


def figure_real_data(tables: Tables) -> Figure | None:
    """Coherence after two epochs on images and on events: plain, @, ATan."""
    found = {data: early(tables, data=data) for data in ("cifar10", "nmnist")}
    found = {data: rows for data, rows in found.items() if len(rows)}
    if not found:
        return None
    figure, axes = panels(1, len(found), 2.6)
    for (data, rows), ax in zip(found.items(), axes[0], strict=True):
        plot_gradient_coherence(rows, hue="method", ax=ax)
        ax.set_title(NAMES[data], fontsize="medium")
    legend_above(figure, axes)
    return figure


NAMES = {
    "atan": "ATan",
    "sigmoid": "Sigmoid",
    "rect": "rectangle",
    "digits": "digits",
    "cifar10": "CIFAR-10",
    "nmnist": "N-MNIST",
}
DPI = 200
FIGURES = {
    "see_it": figure_see_it,
    "flow": figure_flow,
    "depths": figure_depths,
    "accuracy": figure_accuracy,
    "surrogates": figure_surrogates,
    "map": figure_map,
    "sources": figure_sources,
    "history": figure_history,
    "real_data": figure_real_data,
}


# The page.


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


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
    return markdown(header, rows)


PAGE = """# Where does the gradient die?

Written by `analysis/gradient_vanishing.py` from the tables beside it; do not edit.
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
