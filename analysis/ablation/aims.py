"""What the study was to show, and whether it does, from its tables alone."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.ablation.statistics import differences, times_to_vanilla, vanillas_gradients
from analysis.common.figures import Tables

__all__ = ["aims", "aims_at_best_rates", "unbeaten", "vanishing"]

INCOHERENT = 0.1  # below it, batches hardly agree on the direction of the first layers' gradient
# Schedules that follow the calendar, of heads by default.
FIXED = ("constant", "hold-linear", "linear", "cosine", "exponential")
LEARNS = 0.25  # below it there is little to be reached
WELL = 0.9  # of the accuracy of the plain network of 6 layers, from which on a network trains well


def aims(tables: Tables, method: str) -> str:
    """One line an aim: how many settings meet it, and which do not."""
    checks = [vanishing, harmless, quick, deep, frugal]
    if method.split(",")[0] not in FIXED:
        checks.append(unbeaten)
    return "\n".join(check(tables, method) for check in checks) + "\n"


def aims_at_best_rates(tables: Tables, method: str) -> str:
    """Those of accuracy, with the method at its best learning rate as vanilla is."""
    return "\n".join(check(tables, method, True) for check in (vanishing, harmless)) + "\n"


def verdict(aim: str, met: dict[str, bool]) -> str:
    if not met:
        return f"- {aim}: not measured yet."
    missed = [name for name, fine in met.items() if not fine]
    said = f"- {aim}: **{len(met) - len(missed)} of {len(met)} settings**."
    return said + (f" Not so: {', '.join(missed)}." if missed else "")


def vanishing(tables: Tables, method: str, own_rate: bool = False) -> str:
    """Where vanilla's first layers are incoherent, vanilla's best is beaten beyond doubt."""
    runs = tables["runs"]
    coherence = vanillas_gradients(runs, tables["gradients"])["coherence"]
    chosen = coherence.index[coherence < INCOHERENT].difference(trains_well(runs))
    table = differences(runs, [method], best_rate=True, own_rate=own_rate).set_index("setting")
    table = table[table.index.isin(chosen)]
    alone = ", ".join(table.index[table["n"] == 1])
    table = table[table["n"] > 1]
    said = verdict(
        f"Where the coherence of vanilla's first three layers is below {INCOHERENT} after two "
        "epochs, and vanilla does not train well (as in the next line) all the same, better than "
        "vanilla's best of the rates run, with a 95 % interval above 0 (settings of two seeds or "
        "more)",
        dict(zip(table.index, table["low"] > 0, strict=True)),
    )
    return said + (f" Not counted, as of one seed only: {alone}." if alone else "")


def harmless(tables: Tables, method: str, own_rate: bool = False) -> str:
    """Where vanilla trains well, nothing is lost."""
    runs = tables["runs"]
    table = differences(runs, [method], best_rate=True, own_rate=own_rate).set_index("setting")
    table = table[table.index.isin(trains_well(runs))]
    return verdict(
        f"Where vanilla reaches {WELL:.0%} of the plain network of 6 layers, at most 0.3 points "
        "are lost on average",
        dict(zip(table.index, table["difference"] >= -0.003, strict=True)),
    )


def trains_well(runs: pd.DataFrame) -> pd.Index:
    """The settings in which vanilla comes near the plain network of 6 layers."""
    plain = runs[(runs["method"] == "vanilla") & runs["usual"]]
    shallow = plain[(plain["depth"] == 6) & (plain["net"] == "plain")]
    reference = shallow.groupby("data")["val_accuracy"].max()
    means = plain.groupby(["setting", "data"])["val_accuracy"].mean().reset_index("data")
    return means[means["val_accuracy"] >= WELL * means["data"].map(reference)].index


def quick(tables: Tables, method: str) -> str:
    """Vanilla's final accuracy in half of its time, where it gets anywhere."""
    runs = tables["runs"][tables["runs"]["depth"] >= 18]
    table = times_to_vanilla(runs, tables["history"], method).set_index("setting")
    vanilla = runs[runs["usual"] & runs["method"].eq("vanilla")]
    means = vanilla.groupby("setting")["val_accuracy"].mean()
    learns = table.index.isin(means.index[means >= LEARNS])
    said = verdict(
        "From 18 layers on, the final validation accuracy of vanilla at the same rate is reached "
        f"in at most half of vanilla's time (median over seeds), where it is at least {LEARNS:.0%}",
        dict(zip(table.index[learns], table["share"][learns] <= 0.5, strict=True)),
    )
    left = ", ".join(table.index[~learns])
    return said + (f" Not counted, as vanilla hardly learns: {left}." if left else "")


def deep(tables: Tables, method: str) -> str:
    """How deep a plain network may be."""
    runs = tables["runs"].query("data == 'digits' and net == 'plain' and T == 2 and usual")
    runs = runs.query("surrogate == 'atan' and clip == 0")
    means = runs.pivot_table(index="depth", columns="method", values="test_accuracy")
    aim = "The deepest plain network of those tried that reaches 90 % of the one of 6 layers"
    if method not in means or 6 not in means.index:
        return f"- {aim}: not measured yet."
    found: dict[str, float] = {}
    wanted = 0.9 * float(means["vanilla"].loc[6])
    for name in ("vanilla", method):
        reached = means.index[means[name] >= wanted]
        found[name] = int(reached.max()) if len(reached) else np.nan
    tried = ", ".join(str(depth) for depth in means[method].dropna().index)
    return (
        f"- {aim}: **{found['vanilla']} layers with vanilla, {found[method]} with shortcuts** "
        f"(tried: {tried}; the aim is twice as deep)."
    )


def frugal(tables: Tables, method: str) -> str:
    """Spikes of the network handed back."""
    table = differences(tables["runs"], [method], value="spikes")
    return verdict(
        "An inference takes at most a tenth more spikes than vanilla's at the same rate",
        dict(zip(table["setting"], table["mean"] <= 1.1 * table["base"], strict=True)),
    )


def unbeaten(tables: Tables, method: str) -> str:
    """A schedule that follows training against the best of those that follow the calendar."""
    table = differences(tables["runs"], FIXED, method, "val_accuracy")
    best = 100 * table.groupby("setting", sort=False)["difference"].max()
    return verdict(
        "At least as good on validation data as the best of the fixed schedules run in a setting "
        "(points behind it in brackets)",
        {f"{name} ({points:.1f})": bool(points <= 0) for name, points in best.items()},
    )
