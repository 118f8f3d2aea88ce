"""What README and documentation say of the study is what its committed tables say."""

from pathlib import Path

import pandas as pd
import pytest

from analysis.ablation.aims import trains_well
from analysis.ablation.caveats import place_of_best
from analysis.ablation.gains import best_networks, gains, shown
from analysis.ablation.statistics import differences, labelled
from analysis.ablation.summed import without_grid

ROOT = Path(__file__).resolve().parents[3]
TABLE = ROOT / "analysis" / "ablation" / "results" / "runs.csv"

pytestmark = pytest.mark.skipif(not TABLE.exists(), reason="no committed results here")


def words(name: str) -> str:
    return " ".join((ROOT / name).read_text("utf-8").split())


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return without_grid(labelled(pd.read_csv(TABLE, dtype={"run": str})))


def test_the_answer_is_short_and_has_the_figure() -> None:
    opening = (ROOT / "docs" / "does_it_help.md").read_text("utf-8").split("\n## ")[0]
    assert len([line for line in opening.splitlines() if line]) <= 12
    assert opening.count("![") == 1 and "ablation/results/help.png)" in opening
    assert (TABLE.parent / "help.png").exists()


def test_who_may_choose_the_network(runs) -> None:
    without = best_networks(runs, "vanilla").groupby("data")["test_accuracy"].first()
    with_heads = best_networks(runs, "handover").groupby("data")["test_accuracy"].first()
    for page in ("README.md", "docs/does_it_help.md"):
        for data in without.index:
            assert f"{100 * without[data]:.1f} → {100 * with_heads[data]:.1f}" in words(page)


def test_rescued_networks_against_six_layers(runs) -> None:
    table = gains(runs)
    deep = table[(table["net"] == "plain") & (table["depth"] >= 18)]
    behind = deep["shortcuts"] < deep["shallow"]
    page = words("docs/does_it_help.md")
    lost = 100 * (deep["shallow"] - deep["shortcuts"])[behind].set_axis(deep["setting"][behind])
    hopeless = lost.index.isin(["digits plain 30 rect", "digits plain 30 rect clipped"])
    said = f"by {lost[~hopeless].min():.0f} to {lost[~hopeless].max():.0f} points (by "
    assert said + " and ".join(f"{each:.0f}" for each in sorted(lost[hopeless])) in page
    assert f"in {behind.sum()} of {len(deep)} settings" in page
    drawn = shown(table)
    assert len(drawn) == 16
    drawn = drawn[drawn["setting"].isin(deep["setting"])]
    assert (len(drawn), (drawn["shortcuts"] < drawn["shallow"]).sum()) == (8, 7)
    assert "seven of the eight plain networks" in page


def test_rates_that_are_not_bracketed(runs) -> None:
    places = pd.Series(place_of_best(runs)).value_counts()
    assert places.to_dict() == {"only": 10, "inside": 10, "highest": 10, "lowest": 2}
    assert "in ten of the 32 settings only.** In ten others" in words("docs/does_it_help.md")
    assert "in 22 of 32 settings" in words("README.md")


def test_gains_where_vanilla_trains_well(runs) -> None:
    table = differences(runs, ["handover"], best_rate=True).set_index("setting")
    table = table[table.index.isin(trains_well(runs))]
    low, high = 100 * table["difference"].min(), 100 * table["difference"].max()
    page = words("docs/does_it_help.md")
    assert len(table) == 13 and f"{low:.1f} to {high:+.1f} points" in page
    assert ((table["low"] > 0).sum(), (table["high"] < 0).sum()) == (6, 1)
    loss = 100 * table.loc["fashion plain 6 atan", ["difference", "low", "high"]].astype(float)
    said = "{:.1f} points** ({:.1f} to {:.1f}".format(*loss)
    assert said in page and said.replace("**", "") in words("README.md")


@pytest.mark.parametrize(("best_rate", "first"), [(True, "-2 to +131 %"), (False, "+1 to +112 %")])
def test_spikes(runs, best_rate, first) -> None:
    table = differences(runs, ["handover"], value="spikes", best_rate=best_rate)
    more = 100 * (table["mean"] / table["base"] - 1)
    assert f"{more.min():+.0f} to {more.max():+.0f} %" == first
    assert first in words("README.md") and first in words("docs/does_it_help.md")
