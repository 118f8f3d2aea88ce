"""What limits what the study says: rates not tried, seeds added later, ranges over settings."""

from __future__ import annotations

import pandas as pd

from analysis.ablation.statistics import best_rates, differences, rates_tried
from analysis.common.pages import markdown

__all__ = ["added_seeds_section", "place_of_best", "rates_sentence", "spikes_sentence", "with_rate"]

PLANNED = 3  # seeds of data sets other than digits
PLACES = {
    "only": "only one tried",
    "highest": "highest tried",
    "lowest": "lowest tried",
    "inside": "",
}


def place_of_best(runs: pd.DataFrame, method: str = "vanilla") -> dict[str, str]:
    """Where the method's best learning rate is among those tried, by setting.

    "only" if there is no other, "highest" or "lowest" if a better one may lie beyond, "inside" if
    worse ones were tried on both sides.
    """
    best = best_rates(runs, method)
    places = {}
    for name, tried in rates_tried(runs, method).items():
        if len(tried) == 1:
            places[name] = "only"
        elif best[name] == tried[-1]:
            places[name] = "highest"
        else:
            places[name] = "lowest" if best[name] == tried[0] else "inside"
    return places


def with_rate(rate: float, place: str) -> str:
    """The rate, and whether a better one may lie beyond those tried."""
    said = PLACES[place]
    return f"lr {rate:g}, {said}" if said else f"lr {rate:g}"


def rates_sentence(runs: pd.DataFrame) -> str:
    """In which settings vanilla's rate is not bracketed by worse ones."""
    places = place_of_best(runs)
    named = {place: [name for name, found in places.items() if found == place] for place in PLACES}
    counts = {place: len(names) for place, names in named.items()}
    return (
        f"**Vanilla's rate is bracketed by worse ones on both sides in {counts['inside']} of "
        f"{len(places)} settings.** One rate only was run in {counts['only']}"
        f"{listed(named['only'])}; its best is the highest of those run in {counts['highest']}"
        f"{listed(named['highest'])} and the lowest in {counts['lowest']}"
        f"{listed(named['lowest'])}. There a rate that was not run may be better, and the "
        "difference smaller.\n"
    )


def listed(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def added_seeds_section(runs: pd.DataFrame) -> str:
    """Where seeds were added: the difference of the planned seeds alone, and of all."""
    others = runs[runs["data"] != "digits"]
    every = differences(others, ["handover"], best_rate=True).set_index("setting")
    every = every[every["n"] > PLANNED]
    first = differences(others[others["seed"] < PLANNED], ["handover"], best_rate=True)
    first = first.set_index("setting")
    both = every.index.intersection(first.index)
    if both.empty:
        return "None were added.\n"
    above = [name for name in both if first.loc[name, "low"] > 0]
    lines = [
        {
            "setting": name,
            "first three seeds": interval(first.loc[name]),
            "all seeds": interval(every.loc[name]),
        }
        for name in both
    ]
    return (
        f"{markdown(pd.DataFrame(lines))}\nThe interval is above 0 with the first three seeds in "
        f"{len(above)} of these {len(both)} settings, with all in "
        f"{int((every.loc[both, 'low'] > 0).sum())}.\n"
    )


def interval(row: pd.Series) -> str:
    values = [100 * float(row[name]) for name in ("difference", "low", "high")]
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*values)


def spikes_sentence(runs: pd.DataFrame) -> str:
    """How many more spikes, against vanilla at the same rate and at its best."""
    said = []
    for best_rate, vanilla in ((False, "at the same rate"), (True, "at the best of its rates run")):
        table = differences(runs, ["handover"], value="spikes", best_rate=best_rate)
        more = 100 * (table["mean"] / table["base"] - 1)
        said.append(f"{more.min():+.0f} to {more.max():+.0f} % against vanilla {vanilla}")
    return f"With the defaults, over all settings: {', '.join(said)}.\n"
