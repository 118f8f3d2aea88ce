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
    "tet": ("0.6", "^", "--"),
    "sew": ("0.6", "P", "--"),
}
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
    label_ends(ax, means)
    return figure


def mean_accuracies(runs: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy in percent, one row a method and one column a depth."""
    rows = at_best_rate(labelled(runs))
    return 100 * rows.pivot_table("test_accuracy", "method", "depth")


def label_ends(ax: Axes, means: pd.DataFrame) -> None:
    """Each line's name beside its end, moved apart where ends are close."""
    low, high = ax.get_ylim()
    ends = means.ffill(axis=1).iloc[:, -1].sort_values()
    deepest = means.apply(lambda row: row.dropna().index[-1], axis=1)
    y = low
    for method, end in ends.items():
        y = max(float(end), y + GAP * (high - low))
        colour = LOOKS[str(method)][0]
        ax.annotate(
            f"{NAMES[str(method)]}  {end:.1f}", (float(deepest[method]), float(end)),
            (35.3, y), color=colour, va="center", fontsize="small",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.5, "shrinkA": 0, "shrinkB": 5},
        )  # fmt: skip
    ax.set_ylim(low, max(high, y + GAP * (high - low)))
