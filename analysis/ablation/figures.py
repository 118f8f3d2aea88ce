"""The figures of the ablation study, from its tables alone; one function a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis.ablation.gains import BLUE, GREY, figure_help
from analysis.ablation.statistics import differences, times_to_vanilla
from analysis.ablation.summed import without_grid
from analysis.common.figures import DrawFigure, Tables, legend_above, panels, save_all

__all__ = ["draw_all", "present"]

DPI = 150

# Colours that colour-blind eyes tell apart, and markers for print without colour.
LOOKS = {
    "vanilla": (GREY, "s"),
    "hold-linear": ("#D55E00", "o"),
    "handover": (BLUE, "D"),
    "constant": ("#009E73", "^"),
    "hold-linear, average": ("#56B4E9", "v"),
    "handover, average": ("#E69F00", "P"),
}
MAIN = tuple(LOOKS)
CLOSER = ("digits plain 18 atan", "digits plain 30 atan")


def draw_all(tables: Tables, folder: Path) -> dict[str, str]:
    """Draw every figure there are rows for; file name → what it shows."""
    tables = {**tables, "runs": without_grid(tables["runs"])}
    return save_all(FIGURES, tables, folder, DPI)


def named(method: str) -> str:
    """A method in words that need no page beside them."""
    return method.replace("hold-linear", "λ held, then linear").replace("average", "whole map")


def present(runs: pd.DataFrame) -> list[str]:
    return [method for method in MAIN if method in set(runs["method"])]


def figure_depth(tables: Tables) -> Figure | None:
    """Test accuracy over the depth of plain networks, digits, ATan; mean and standard deviation
    over seeds. The dotted line is chance."""
    runs = tables["runs"].query("data == 'digits' and net == 'plain' and T == 2")
    runs = runs.query("surrogate == 'atan' and clip == 0")
    if runs["depth"].nunique() < 2:
        return None
    figure, (ax,) = panels(1, 3.4)
    tried = runs.groupby("method")["depth"].nunique()
    for method in (each for each in present(runs) if tried[each] > 2):
        rows = runs[(runs["method"] == method) & runs["usual"]].groupby("depth")["test_accuracy"]
        colour, marker = LOOKS[method]
        ax.errorbar(
            rows.mean().index, rows.mean(), rows.std(), label=named(method),
            color=colour, marker=marker, capsize=3,
        )  # fmt: skip
    ax.axhline(0.1, color="0.4", linestyle=":")
    ax.set(xlabel="convolutional layers", ylabel="test accuracy", ylim=(0, 1.02))
    ax.set_xscale("log", base=2)
    ticks = sorted(runs["depth"].unique())
    ax.set_xticks(ticks, list(map(str, ticks)))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    legend_above(figure, ax)
    return figure


def figure_gain(tables: Tables) -> Figure | None:
    """Points of test accuracy that each method brings over vanilla at the best of the learning
    rates run with it, by setting: of the seeds that both have, with Welch's 95 % intervals."""
    runs = tables["runs"]
    methods = [method for method in present(runs) if method != "vanilla"]
    table = differences(runs, methods, best_rate=True)
    return dots(table, "points of test accuracy over vanilla") if len(table) else None


def figure_rules(tables: Tables) -> Figure | None:
    """Every method against a linear fall after half of the epochs (hold-linear), validation
    accuracy; each dot is a setting, of shared seeds, the line their mean. Variants of heads that
    average over all of space are in the table only."""
    runs = tables["runs"]
    methods = [m for m in runs["method"].unique() if m not in ("vanilla", "hold-linear")]
    methods = [m for m in methods if m in MAIN or "average" not in m]
    table = differences(runs, methods, "hold-linear", "val_accuracy")
    if table.empty:
        return None
    order = table.groupby("method")["difference"].mean().sort_values()
    figure, (ax,) = panels(1, 0.9 + 0.24 * len(order))
    settings = list(table["setting"].unique())
    colours = plt.get_cmap("tab20")
    for name, rows in table.groupby("setting", sort=False):
        places = [list(order.index).index(method) for method in rows["method"]]
        round_, place = divmod(settings.index(name), 20)  # twenty colours do not do for all
        look: dict[str, Any] = {"color": colours(place), "marker": "os^D"[round_]}
        ax.plot(100 * rows["difference"], places, linestyle="", label=name, alpha=0.8, ms=5, **look)
    ax.plot(100 * order, range(len(order)), "|", color="black", ms=14, label="mean")
    ax.axvline(0, color="0.4", linestyle=":")
    ax.set_yticks(range(len(order)), list(map(named, order.index)), fontsize="small")
    ax.set_xscale("symlog", linthresh=2)
    ax.set_xlabel(f"points of validation accuracy over {named('hold-linear')}")
    legend_above(figure, ax, 4)
    return figure


def dots(table: pd.DataFrame, label: str) -> Figure:
    """Differences with intervals: a row a setting, a mark a method."""
    settings = list(table["setting"].unique())[::-1]
    figure, (ax,) = panels(1, 1.2 + 0.5 * len(settings))
    methods = list(table["method"].unique())
    for i, method in enumerate(methods):
        rows = table[table["method"] == method]
        places = [
            settings.index(name) + 0.13 * ((len(methods) - 1) / 2 - i) for name in rows["setting"]
        ]
        # A single seed has no interval.
        half = (100 * (rows["high"] - rows["difference"])).fillna(0)
        colour, marker = LOOKS[method]
        ax.errorbar(
            100 * rows["difference"], places, xerr=half, fmt=marker,
            color=colour, label=named(method), ms=5, capsize=2,
        )  # fmt: skip
    ax.axvline(0, color="0.4", linestyle=":")
    ax.set_yticks(range(len(settings)), settings, fontsize="small")
    ax.set_ylim(-0.6, len(settings) - 0.4)
    ax.set_xlabel(label)
    legend_above(figure, ax)
    return figure


def figure_time(tables: Tables) -> Figure | None:
    """Training time until vanilla's final validation accuracy, as a share of vanilla's whole
    training; median over seeds. A bar that ends at the frame never got there."""
    runs, history = tables["runs"], tables["history"]
    methods = [method for method in present(runs) if method != "vanilla"]
    found = {method: times_to_vanilla(runs, history, method) for method in methods}
    found = {method: table for method, table in found.items() if len(table)}
    if not found:
        return None
    settings = list(dict.fromkeys(name for table in found.values() for name in table["setting"]))
    settings = settings[::-1]
    figure, (ax,) = panels(1, 1.2 + 0.6 * len(settings))
    wide = 0.8 / len(found)
    for i, (method, table) in enumerate(found.items()):
        places = [
            settings.index(name) + wide * (len(found) / 2 - i - 0.5) for name in table["setting"]
        ]
        colour, _ = LOOKS[method]
        ax.barh(places, table["share"].clip(upper=1.5), wide, color=colour, label=named(method))
    ax.axvline(0.5, color="0.4", linestyle="--")
    ax.axvline(1, color="0.4", linestyle=":")
    ax.set_yticks(range(len(settings)), settings, fontsize="small")
    ax.set(xlabel="share of vanilla's training time (dashed: the aim)", xlim=(0, 1.5))
    legend_above(figure, ax)
    return figure


def figure_gradients(tables: Tables) -> Figure | None:
    """First layer's gradient over the epochs: its norm over that of the last convolution (left),
    and mean coherence of the first three layers (right). Plain, 30 layers, ATan, digits; mean over
    seeds."""
    runs = tables["runs"]
    runs = runs[(runs["setting"] == CLOSER[1]) & runs["usual"]]
    if runs.empty:
        return None
    joined = tables["gradients"].merge(runs[["run", "method"]], on="run")
    figure, (left, right) = panels(2)
    for method in present(runs):
        rows = joined[joined["method"] == method]
        norm = rows.pivot_table(index="epoch", columns="place", values="weight_grad_norm")
        coherence = rows[rows["place"] != "last"].groupby("epoch")["coherence"].mean()
        colour, marker = LOOKS[method]
        look: dict[str, Any] = {"color": colour, "marker": marker, "label": named(method)}
        left.plot(norm.index, norm["1"] / norm["last"], **look)
        right.plot(coherence.index, coherence, **look)
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(xlabel="epoch", ylabel="gradient norm, first / last", yscale="log")
    right.set(xlabel="epoch", ylabel="coherence")
    legend_above(figure, right)
    return figure


def figure_heads(tables: Tables) -> Figure | None:
    """Validation accuracy of each head (light: shallow, dark: deep) and of the output (black)
    over the epochs; plain, 18 layers, ATan, digits, seed 0."""
    runs = tables["runs"]
    runs = runs[(runs["setting"] == CLOSER[0]) & runs["usual"] & (runs["seed"] == 0)]
    wanted = ("hold-linear", "handover", "hold-linear, average")
    chosen = [method for method in wanted if method in set(runs["method"])]
    if not chosen:
        return None
    figure, axes = panels(len(chosen))
    for method, ax in zip(chosen, axes, strict=True):
        run = runs.loc[runs["method"] == method, "run"].iloc[0]
        heads = tables["heads"][tables["heads"]["run"] == run]
        table = heads.pivot_table(index="epoch", columns="head", values="val_accuracy")
        names = sorted(table.columns, key=int)
        for i, name in enumerate(names):
            shade = plt.get_cmap("Blues")(0.3 + 0.6 * i / max(1, len(names) - 1))
            ax.plot(table.index, table[name], color=shade)
        own = tables["history"][tables["history"]["run"] == run]
        ax.plot(own["epoch"], own["val_accuracy"], color="black", linewidth=2)
        ax.set(xlabel="epoch", ylim=(0, 1.02))
        ax.set_title(named(method), fontsize="medium")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    axes[0].set_ylabel("validation accuracy")
    return figure


def figure_sensitivity(tables: Tables) -> Figure | None:
    """Validation accuracy by learning rate (left, handover), by where heads sit (middle) and by λ
    at first (right, both hold-linear), mean over seeds; one line a setting."""
    runs = tables["runs"][~tables["runs"]["longer"]]
    held = runs[runs["schedule"] == "hold-linear"].query(
        "combine == 'loss' and not per_step and head == 'grid2'"
    )
    figure, (rates, places, starts) = panels(3, 3.6)
    order = ["stages", "every:6", "auto", "every:3", "all"]
    colours = plt.get_cmap("tab10")
    varied = held.groupby("setting", sort=False)["start"].nunique() > 1
    for i, name in enumerate(varied.index[varied]):
        look: dict[str, Any] = {"color": colours(i), "marker": "o", "ms": 4}
        here = runs[runs["setting"] == name]
        for method, line in (("handover", "-"), ("vanilla", ":")):
            by_rate = here[here["method"] == method].groupby("lr")["val_accuracy"].mean()
            rates.plot(by_rate, line, label=name if line == "-" else None, **look)
        usual = held[(held["setting"] == name) & held["usual"]]
        by_place = usual[usual["start"] == 1].groupby("at")["val_accuracy"].mean()
        known = [at for at in order if at in by_place.index]
        places.plot([order.index(at) for at in known], by_place[known], **look)
        by_start = usual[usual["at"] == "auto"].groupby("start")["val_accuracy"].mean()
        starts.plot(by_start, **look)
    rates.set(xscale="log", xlabel="learning rate (dotted: vanilla)", ylabel="validation accuracy")
    places.set_xlabel("heads at")
    places.set_xticks(range(len(order)), order)
    places.tick_params(axis="x", labelsize="small")
    starts.set(xscale="log", xlabel="λ at first")
    for ax in (rates, places, starts):
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    legend_above(figure, rates, 3)
    if not varied.any():
        plt.close(figure)
        return None
    return figure


def figure_firing(tables: Tables) -> Figure | None:
    """Spikes of an inference, of the network handed back, over vanilla's at the same rate; mean
    over seeds, whose weights at first are the same. The band is the aim, within a tenth."""
    runs = tables["runs"]
    methods = [method for method in present(runs) if method != "vanilla"]
    table = differences(runs, methods, value="spikes")
    if table.empty:
        return None
    settings = list(table["setting"].unique())[::-1]
    figure, (ax,) = panels(1, 1.0 + 0.3 * len(settings))
    ax.axvspan(0, 1.1, color="0.93", zorder=0)
    for method in methods:
        rows = table[table["method"] == method]
        colour, marker = LOOKS[method]
        places = [settings.index(name) for name in rows["setting"]]
        ax.plot(rows["mean"] / rows["base"], places, marker, color=colour, label=named(method))
    ax.axvline(1, color="0.4", linestyle=":")
    ax.set_yticks(range(len(settings)), settings, fontsize="small")
    ax.set_xlabel("spikes of an inference / vanilla's")
    ax.set_xlim(left=0)
    legend_above(figure, ax)
    return figure


def figure_coefficients(tables: Tables) -> Figure | None:
    """λ (mean over heads) that each rule chose, epoch by epoch; plain networks of 18 and 30
    layers, ATan, digits, mean over seeds."""
    runs = tables["runs"]
    runs = runs[runs["usual"] & runs["setting"].isin(CLOSER)]
    rules = [m for m in runs["method"].unique() if m not in ("vanilla", "constant")]
    rules = [m for m in rules if "," not in m and m not in ("linear", "cosine", "exponential")]
    if not rules:
        return None
    joined = tables["history"].merge(runs[["run", "method", "setting"]], on="run")
    names = [name for name in CLOSER if name in set(runs["setting"])]
    figure, axes = panels(len(names))
    colours = plt.get_cmap("tab10")
    for name, ax in zip(names, axes, strict=True):
        for i, rule in enumerate(rules):
            rows = joined[(joined["setting"] == name) & (joined["method"] == rule)]
            if len(rows):
                mean = rows.groupby("epoch")["coefficient"].mean()
                ax.plot(mean.index, mean, color=colours(i % 10), label=rule)
        ax.set(title=name, xlabel="epoch", ylim=(0, 1.05))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylabel("λ")
    legend_above(figure, axes[0], 5)
    return figure


FIGURES: tuple[DrawFigure, ...] = (
    figure_help,
    figure_depth,
    figure_gain,
    figure_rules,
    figure_time,
    figure_gradients,
    figure_heads,
    figure_sensitivity,
    figure_firing,
    figure_coefficients,
)
