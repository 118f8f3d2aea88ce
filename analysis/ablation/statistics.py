"""What the runs of the ablation study say: means, differences, times. Tables in, tables out.

A *setting* is data, network, depth, surrogate, T, and whether gradients are clipped; a *method* is
everything else but learning rate, number of epochs and seed. Methods are compared on the seeds that
both have. These start from the same weights, but end as far apart as others (their accuracies
hardly correlate), so intervals are those of unpaired samples, by Welch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.common.statistics import welch

__all__ = [
    "at_best_rate",
    "best_rates",
    "differences",
    "firing_by_place",
    "foretold",
    "labelled",
    "rates_tried",
    "seeds_correlate",
    "times_to_vanilla",
    "vanillas_gradients",
]

SETTING = ["data", "images", "net", "depth", "surrogate", "T", "clip"]
USUAL_RATE = 0.1
PAIR = [*SETTING, "seed"]


def labelled(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with columns ``setting``, ``method``, and ``usual``: usual rate and epochs."""
    runs = runs.sort_values([*SETTING, "seed"], kind="stable")
    runs["setting"] = [setting_label(row) for row in runs.itertuples()]
    runs["method"] = [method_label(row) for row in runs.itertuples()]
    shortest = runs.groupby(SETTING)["epochs"].transform("min")
    runs["usual"] = runs["lr"].eq(USUAL_RATE) & runs["epochs"].eq(shortest)
    runs["longer"] = runs["epochs"] > shortest
    return runs


def setting_label(row: Any) -> str:
    usual = 4 if row.data == "nmnist" else 2
    steps = "" if row.T == usual else f" T={row.T}"
    clipped = " clipped" if row.clip else ""
    return f"{row.data} {row.net} {row.depth} {row.surrogate}{steps}{clipped}"


def method_label(row: Any) -> str:
    """Short name: the schedule, and what differs from the usual.

    Usual are at="auto", heads that average over 2 x 2 parts of space, sums of losses, and λ₀ = 1.
    """
    if row.schedule == "none":
        return "vanilla"
    parts = ["handover" if row.schedule == "ratio-each" else row.schedule]
    if row.at != "auto":
        parts.append(f"at {row.at}")
    if row.head != "grid2":
        parts.append(row.head)
    if row.combine != "loss":
        parts.append(row.combine)
    if row.start != 1:
        parts.append(f"λ₀ {row.start:g}")
    if row.per_step:
        parts.append("per step")
    return ", ".join(parts)


def compared_rates(runs: pd.DataFrame, method: str) -> pd.DataFrame:
    """The method's runs at the rates that count, of the seeds of which all these are finished.

    A rate of less than three seeds does not count where others have three.
    """
    rows = runs[(runs["method"] == method) & ~runs["longer"]]
    seeds = rows.groupby(["setting", "lr"])["seed"].transform("nunique")
    rows = rows[(seeds >= 3) | (seeds.groupby(rows["setting"]).transform("max") < 3)]
    tried = rows.groupby("setting")["lr"].transform("nunique")
    return rows[rows.groupby(["setting", "seed"])["lr"].transform("nunique") == tried]


def best_rates(runs: pd.DataFrame, method: str = "vanilla") -> pd.Series:
    """The learning rate of the highest mean validation accuracy, by setting."""
    rows = compared_rates(runs, method)
    means = rows.groupby(["setting", "lr"])["val_accuracy"].mean().reset_index()
    best = means.loc[means.groupby("setting")["val_accuracy"].idxmax()]
    return best.set_index("setting")["lr"]


def rates_tried(runs: pd.DataFrame, method: str = "vanilla") -> dict[str, list[float]]:
    """The learning rates among which the best was looked for, in order, by setting."""
    rows = compared_rates(runs, method)
    return {str(name): sorted(group["lr"].unique()) for name, group in rows.groupby("setting")}


def at_best_rate(runs: pd.DataFrame, method: str) -> pd.DataFrame:
    """The method's runs at its best learning rate, where several were tried."""
    rows = runs[runs["method"] == method]
    wanted = rows["setting"].map(best_rates(runs, method)).astype(float).fillna(USUAL_RATE)
    return rows[rows["lr"] == wanted]


def at_usual_rate(runs: pd.DataFrame, method: str) -> pd.DataFrame:
    return runs[(runs["method"] == method) & (runs["lr"] == USUAL_RATE)]


def several_rates(runs: pd.DataFrame, method: str) -> pd.Index:
    """The settings in which the method was run at more than one learning rate."""
    tried = runs[runs["method"] == method].groupby("setting")["lr"].nunique()
    return tried.index[tried > 1]


def differences(
    runs: pd.DataFrame,
    others: Iterable[str],
    reference: str = "vanilla",
    value: str = "test_accuracy",
    best_rate: bool = False,
    own_rate: bool = False,
    longer: bool = False,
) -> pd.DataFrame:
    """Differences of methods from a reference, one row a setting and method.

    Of the seeds that both have, with Welch's intervals.

    Args:
        runs: Labelled runs.
        others: Methods, each at the usual learning rate and number of epochs.
        reference: The method to compare with.
        value: The column to compare.
        best_rate: Take the reference at its best learning rate, where several were tried.
        own_rate: Take the others at theirs, too, and leave out settings in which one was tried.
        longer: Take the reference with more epochs.
    """
    base = runs[runs["longer"] == longer]
    base = at_best_rate(base, reference) if best_rate else at_usual_rate(base, reference)
    rows = []
    for method in others:
        own = at_best_rate(runs, method) if own_rate else at_usual_rate(runs, method)
        own = own[~own["longer"]]
        if own_rate:
            own = own[own["setting"].isin(several_rates(runs, method))]
        both = own.merge(base, on=[*PAIR, "setting"], suffixes=("", "_base"))
        for name, group in both.groupby("setting", sort=False):
            row = {"setting": name, "method": method, "reference": reference}
            rows.append({**row, **compared(group[value], group[f"{value}_base"])})
    columns = ["setting", "method", "reference", "n", "mean", "base", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def compared(a: pd.Series, b: pd.Series) -> dict[str, float]:
    """Both means and their difference with its interval; no interval of a single seed."""
    found = welch(a, b)
    means = {"n": len(a), "mean": float(a.mean()), "base": float(b.mean())}
    return {**means, "difference": found.value, "low": found.low, "high": found.high}


def seeds_correlate(runs: pd.DataFrame, method: str) -> float:
    """Mean over settings of the correlation, over seeds, of the method's accuracy with vanilla's.

    Test accuracy, vanilla at its best rate; settings of four shared seeds or more.
    """
    base = at_best_rate(runs[~runs["longer"]], "vanilla")
    own = at_usual_rate(runs[~runs["longer"]], method)
    both = own.merge(base, on=[*PAIR, "setting"], suffixes=("", "_base"))
    found = [
        group["test_accuracy"].corr(group["test_accuracy_base"])
        for _, group in both.groupby("setting")
        if len(group) >= 4 and group[["test_accuracy", "test_accuracy_base"]].std().all()
    ]
    return float(np.mean(found)) if found else np.nan


def times_to_vanilla(runs: pd.DataFrame, history: pd.DataFrame, method: str) -> pd.DataFrame:
    """Training time until vanilla's final validation accuracy, as a share of vanilla's whole.

    The accuracy is that of the vanilla run of the same seed after its last epoch. One row a
    setting: the median over seeds; NaN counts as never reached.
    """
    usual = runs[runs["usual"]]
    pairs = usual[usual["method"] == method].merge(
        usual[usual["method"] == "vanilla"], on=[*PAIR, "setting"], suffixes=("", "_base")
    )
    shares = []
    for row in pairs.itertuples():
        own = history[history["run"] == row.run]
        reached = own[own["val_accuracy"] >= row.val_accuracy_base]
        share = reached["seconds"].min() / row.seconds_base if len(reached) else np.inf
        shares.append({"setting": row.setting, "share": share})
    if not shares:
        return pd.DataFrame(columns=["setting", "share", "n"])
    grouped = pd.DataFrame(shares).groupby("setting", sort=False)["share"]
    return grouped.agg(share="median", n="count").reset_index()


def firing_by_place(runs: pd.DataFrame, firing: pd.DataFrame, method: str) -> pd.DataFrame:
    """Mean firing rate of the first, middle and last third of the layers, and of vanilla's.

    One row a setting, of the seeds of which both were recorded; columns by method and third, and
    "untrained" for the network that both start as, of the runs that recorded it.
    """
    place = firing["layer"] / firing.groupby("run")["layer"].transform("max")
    third = pd.cut(place, [0, 1 / 3, 2 / 3, 1], labels=["first", "middle", "last"])
    rates = firing.pivot_table("firing_rate", "run", third, observed=False)
    usual = runs[runs["usual"] & runs["method"].isin(["vanilla", method])]
    rows = usual[[*PAIR, "setting", "method", "run"]]
    both = rows.merge(rates, left_on="run", right_index=True)
    both = both[both.groupby(PAIR)["method"].transform("nunique") == 2]
    before = firing.pivot_table("untrained", "run", third, observed=False)
    before = rows.assign(method="untrained").merge(before, left_on="run", right_index=True)
    before = before[before["setting"].isin(both["setting"])]
    thirds = ["first", "middle", "last"]
    return pd.concat([both, before]).pivot_table(thirds, "setting", "method", sort=False)


def first_layers(gradients: pd.DataFrame, epoch: int) -> pd.DataFrame:
    """Of each run, the first layer's norm over the last one's, and the first three's coherence."""
    then = gradients[gradients["epoch"] == epoch]
    norms = then.pivot_table(index="run", columns="place", values="weight_grad_norm")
    coherence = then[then["place"] != "last"].groupby("run")["coherence"].mean()
    return pd.DataFrame({"norm": norms["1"] / norms["last"], "coherence": coherence})


def vanillas_gradients(runs: pd.DataFrame, gradients: pd.DataFrame) -> pd.DataFrame:
    """Whether vanilla's first layers get a gradient, one row a setting.

    Norms as in `first_layers`, before training and after two epochs (medians over seeds), and the
    coherence after two (mean).
    """
    plain = runs[runs["usual"] & runs["method"].eq("vanilla")].set_index("run")
    before, later = first_layers(gradients, 0), first_layers(gradients, 2)
    found = plain.assign(before=before["norm"], later=later["norm"], coherence=later["coherence"])
    grouped = found.groupby("setting", sort=False)
    means = grouped[["coherence", "val_accuracy"]].mean()
    return pd.concat([grouped[["before", "later"]].median(), means], axis=1)


def foretold(runs: pd.DataFrame, gradients: pd.DataFrame, epoch: int = 2) -> pd.DataFrame:
    """Rank correlation of `first_layers` early in training with final accuracy, by data set."""
    early = first_layers(gradients, epoch)
    rows = []
    for (data, kind), group in runs.groupby(["data", runs["method"].eq("vanilla")]):
        final = group.set_index("run")["val_accuracy"]
        found = {"data": data, "runs": len(group), "kind": "vanilla" if kind else "shortcuts"}
        for name in ("norm", "coherence"):
            joined = pd.concat([final, early[name]], axis=1, join="inner").dropna()
            enough = len(joined) > 3
            found[name] = stats.spearmanr(joined).statistic if enough else np.nan
        rows.append(found)
    return pd.DataFrame(rows)
