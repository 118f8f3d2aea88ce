"""The figure of the study of the paper's claims, from its tables alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.common.figures import Tables, panels, save_all
from analysis.paper.claims import DEPTHS, at_best_rate, labelled
from analysis.paper.plan import NAMES

__all__ = ["draw_all"]

DPI = 150
# Grey for what is done without heads; colours that colour-blind eyes tell apart for the rest.
LOOKS = {
    "vanilla": ("0.25", "s", "-"),
    "eq6": ("#56B4E9", "v", "-"),
    "eq10": ("#0072B2", "o", "-"),
    "defaults": ("#D55E00", "D", "-"),
    "tet": ("0.5", "^", "--"),
    "sew": ("0.5", "P", "--"),
}
CLAIMED = ("vanilla", "eq10", "defaults")  # what the second claim is about
GAP = 0.055  # of the height of the axes between two labels at the right


def draw_all(tables: Tables, folder: Path) -> dict[str, str]:
    """Draw every figure there are rows for; file name → what it shows."""
    return save_all((figure_claims,), tables, folder, DPI)


def figure_claims(tables: Tables) -> Figure | None:
    """Test accuracy of ResNet-18 and ResNet-34 by method, mean over seeds; small marks are
    seeds. The paper says that vanilla falls from left to right and its method rises."""
    runs = tables["runs"]
    if runs.empty:
        return None
    means = mean_accuracies(runs)
    figure, (ax,) = panels(1, 4.4)
    for method, (colour, marker, line) in LOOKS.items():
        if method not in means.index:
            continue
        row = means.loc[method].dropna()
        ax.plot(list(row.index), list(row), line, color=colour, marker=marker, ms=8, lw=2)
        seeds = at_best_rate(labelled(runs))
        seeds = seeds[seeds["method"] == method]
        ax.plot(seeds["depth"], 100 * seeds["test_accuracy"], marker, color=colour, ms=4, alpha=0.5)
    ax.set_xticks(DEPTHS, [f"ResNet-{depth}" for depth in DEPTHS])
    ax.set_xlim(16.5, 42)
    ax.set_ylabel("test accuracy, %")
    ax.grid(axis="x", visible=False)
    ax.set_title(in_one_line(means), fontsize="medium", loc="left")
    for depth in DEPTHS:
        label_ends(ax, means, depth)
    return figure


def mean_accuracies(runs: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy in percent, one row a method and one column a depth."""
    rows = at_best_rate(labelled(runs))
    return 100 * rows.pivot_table("test_accuracy", "method", "depth")


def in_one_line(means: pd.DataFrame) -> str:
    """What the eye should look for, in points."""
    if not {18, 34} <= set(means.columns):
        return ""
    change = (means[34] - means[18]).dropna()
    said = [f"{NAMES[name]} {change[name]:+.1f}" for name in CLAIMED if name in change]
    said = [each.replace("-", "−") for each in said]
    return "From 18 to 34 layers, in points: " + ", ".join(said) if said else ""


def label_ends(ax: Axes, means: pd.DataFrame, depth: int) -> None:
    """Names of the lines that end at a depth, moved apart where ends are close."""
    deepest = means.apply(lambda row: row.dropna().index[-1], axis=1)
    ends = means[deepest == depth].get(depth, pd.Series(dtype=float)).sort_values()
    low, high = ax.get_ylim()
    y = low
    for method, end in ends.items():
        y = max(float(end), y + GAP * (high - low))
        colour = LOOKS[str(method)][0]
        ax.annotate(
            f"{NAMES[str(method)]}  {end:.1f}", (depth, float(end)), (depth + 1.3, y),
            color=colour, va="center", fontsize="small",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5, "shrinkA": 0, "shrinkB": 5},
        )  # fmt: skip
    ax.set_ylim(low, max(high, y + GAP * (high - low)))
