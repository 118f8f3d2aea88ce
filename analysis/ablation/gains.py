"""Does it help? One row a setting: vanilla at its best, shortcuts as they come, spikes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from analysis.ablation.statistics import at_best_rate, rates_tried
from analysis.common.figures import Tables, legend_above, panels
from analysis.common.pages import markdown
from analysis.common.statistics import welch

__all__ = ["BLUE", "GREY", "best_networks", "figure_help", "gains", "networks_section"]

GREY, BLUE = "0.5", "#0072B2"
DATA = {"digits": "digits", "fashion": "Fashion-MNIST", "nmnist": "N-MNIST", "cifar10": "CIFAR-10"}
NETS = {"plain": "plain", "resnet": "ResNet", "sew": "SEW-ResNet"}
SURROGATES = {"atan": "", "rect": ", rectangle", "sigmoid": ", sigmoid"}
SHOWN_DEPTHS = (6, 18, 20, 30)
NOTHING_HELPS = "digits plain 30 rect"  # shown, too: its gradients explode


def gains(runs: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy without and with shortcuts, one row a setting, the largest gain first.

    Vanilla is at the best of the rates tried, by validation; shortcuts are the defaults at 0.1.
    Columns: those of a setting, ``vanilla`` and ``shortcuts`` (means), the accuracy of each seed in
    ``vanilla_seeds`` and ``shortcuts_seeds``, ``rates`` (how many vanilla had), ``shallow`` (the
    best vanilla network of 6 layers on these data, by validation) and ``spikes`` (shortcuts' over
    vanilla's).
    """
    runs = runs[~runs["longer"]]
    vanilla = at_best_rate(runs, "vanilla").groupby("setting")
    shortcuts = runs[runs["usual"] & runs["method"].eq("handover")].groupby("setting")
    shallow, rates = shallow_accuracy(runs), rates_tried(runs, "vanilla")
    rows = []
    for name in map(str, set(vanilla.groups) & set(shortcuts.groups)):
        base, own = vanilla.get_group(name), shortcuts.get_group(name)
        first = base.iloc[0]
        rows.append(
            {
                "setting": name,
                **first[["data", "net", "depth", "surrogate", "T", "clip"]],
                "vanilla": base["test_accuracy"].mean(),
                "shortcuts": own["test_accuracy"].mean(),
                "vanilla_seeds": base["test_accuracy"].tolist(),
                "shortcuts_seeds": own["test_accuracy"].tolist(),
                "rates": len(rates[name]),
                "shallow": shallow.get(first["data"], np.nan),
                "spikes": own["spikes"].mean() / base["spikes"].mean(),
            }
        )
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows)
    table["gain"] = table["shortcuts"] - table["vanilla"]
    return table.sort_values(["gain", "setting"], ascending=[False, True], ignore_index=True)


def shallow_accuracy(runs: pd.DataFrame) -> dict[str, float]:
    """Test accuracy of vanilla's best plain network of 6 layers, by data set."""
    rows = runs[(runs["net"] == "plain") & (runs["depth"] == 6) & (runs["clip"] == 0)]
    means = at_best_rate(rows, "vanilla").groupby(["data", "setting"])
    table = means[["val_accuracy", "test_accuracy"]].mean().reset_index()
    best = table.loc[table.groupby("data")["val_accuracy"].idxmax()]
    return dict(zip(best["data"], best["test_accuracy"], strict=True))


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the figure: one surrogate a network, usual T, not clipped, no odd depths.

    The surrogate is ATan where it was run. The network that nothing helps is there, too.
    """
    if table.empty:
        return table
    usual = table[(table["clip"] == 0) & (table["T"] == np.where(table["data"] == "nmnist", 4, 2))]
    network = ["data", "net", "depth"]
    order = usual["surrogate"].map({"atan": 0, "rect": 1, "sigmoid": 2})
    first = order == order.groupby([usual[key] for key in network]).transform("min")
    chosen = first & usual["depth"].isin(SHOWN_DEPTHS)
    return usual[chosen | usual["setting"].eq(NOTHING_HELPS)].reset_index(drop=True)


def figure_help(tables: Tables) -> Figure | None:
    """Test accuracy without shortcuts (grey) and with the defaults (blue), the largest gain first;
    thin ticks are seeds. Vanilla has the best of the rates tried, by validation (hollow: one rate
    only was tried), shortcuts have 0.1. The black bar is the best vanilla network of 6 layers on
    the same data. At the right spikes of an inference, of shortcuts over vanilla. Plain networks of
    6, 18 and 30 layers and residual ones, with ATan where it was run, and one whose gradients
    explode; the table of all settings is above."""
    table = shown(gains(tables["runs"]))
    if table.empty:
        return None
    figure, (ax,) = panels(1, 1.3 + 0.27 * len(table))
    for place, row in enumerate(table.itertuples()):
        draw_row(ax, place, row)
    ax.set_yticks(range(len(table)), [label(row) for row in table.itertuples()])
    ax.set(ylim=(len(table) - 0.4, -1.1), xlim=(0, 1.02), xlabel="test accuracy")
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.text(1.03, -0.8, "spikes", va="center", transform=ax.get_yaxis_transform())
    look: dict[str, Any] = {"linestyle": "", "markersize": 8}
    ax.plot([], marker="o", color=GREY, label="vanilla", **look)
    ax.plot([], marker="o", color=GREY, mfc="white", mew=1.6, label="(one rate only)", **look)
    ax.plot([], marker="o", color=BLUE, label="shortcuts", **look)
    ax.plot([], marker="|", color="black", mew=2.5, label="vanilla's best of 6 layers", **look)
    legend_above(figure, ax, 4)
    return figure


def draw_row(ax: Axes, place: int, row: Any) -> None:
    """Both means, joined; their seeds; the shallow network; spikes."""
    ax.plot([row.vanilla, row.shortcuts], [place, place], color=BLUE, alpha=0.3, linewidth=3)
    thin: dict[str, Any] = {"marker": "|", "linestyle": "", "markersize": 11, "mew": 0.8}
    for seeds, colour in ((row.vanilla_seeds, GREY), (row.shortcuts_seeds, BLUE)):
        ax.plot(seeds, [place] * len(seeds), color=colour, **thin)
    if np.isfinite(row.shallow):
        ax.plot(row.shallow, place, marker="|", color="black", markersize=13, mew=2.5)
    face = GREY if row.rates > 1 else "white"
    ax.plot(row.vanilla, place, marker="o", color=GREY, mfc=face, mew=1.6, markersize=8)
    ax.plot(row.shortcuts, place, marker="o", color=BLUE, markersize=8)
    ax.text(
        1.03, place, f"× {row.spikes:.2f}", va="center", transform=ax.get_yaxis_transform()
    )  # fmt: skip


def label(row: Any) -> str:
    return f"{DATA[row.data]}, {NETS[row.net]} {row.depth}{SURROGATES[row.surrogate]}"


def best_networks(runs: pd.DataFrame, method: str) -> pd.DataFrame:
    """The setting and rate of the highest mean validation accuracy, by data set; all of a tie.

    Of those run with three seeds or more. Columns ``data``, ``setting``, ``lr``, ``val_accuracy``,
    ``test_accuracy`` (means) and ``seeds`` (the test accuracy of each).
    """
    rows = runs[(runs["method"] == method) & ~runs["longer"]]
    groups = rows.groupby(["data", "setting", "lr"])
    means = groups[["val_accuracy", "test_accuracy"]].mean()
    means["seeds"] = groups["test_accuracy"].agg(list)
    means = means[groups["seed"].nunique() >= 3].reset_index()
    means["val_accuracy"] = means["val_accuracy"].round(6)  # a tie is one, whatever the rounding
    best = means.groupby("data")["val_accuracy"].transform("max")
    return means[means["val_accuracy"] == best].reset_index(drop=True)


def networks_section(runs: pd.DataFrame) -> str:
    """The best network of each arm: whether one gains who may choose the network."""
    without, with_heads = best_networks(runs, "vanilla"), best_networks(runs, "handover")
    lines = []
    for data in DATA:
        one, other = (table[table["data"] == data] for table in (without, with_heads))
        if one.empty or other.empty:
            continue
        found = welch(*(pd.Series(each["seeds"].iloc[0]) for each in (other, one)))
        value, low, high = (round(100 * each, 1) + 0.0 for each in found)  # not -0.0
        lines.append(
            {
                "data": DATA[data],
                "best vanilla": network(one),
                "best with shortcuts": network(other),
                "difference": f"{value:+.1f} [{low:+.1f}, {high:+.1f}]",
            }
        )
    return markdown(pd.DataFrame(lines)) if lines else "Not run yet.\n"


def network(tied: pd.DataFrame) -> str:
    """The first of the tied, and the range of all."""
    first, accuracy = tied.iloc[0], tied["test_accuracy"]
    said = f"{first['setting']}, lr {first['lr']:g}: {first['test_accuracy']:.1%}"
    said += f" ({len(first['seeds'])})"
    if len(tied) == 1:
        return said
    return f"{said}; {len(tied)} tie, {accuracy.min():.1%} to {accuracy.max():.1%}"
