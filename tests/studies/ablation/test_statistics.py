"""Means, differences and times, from tables made by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.ablation.statistics import (
    best_rates,
    differences,
    firing_by_place,
    rates_tried,
    seeds_correlate,
    times_to_vanilla,
    vanillas_gradients,
)
from tests.studies.ablation.tables import HEADS, table


def test_differences_are_of_shared_seeds_but_not_of_pairs(vanilla) -> None:
    base, other = np.array([0.1, 0.5, 0.9]), np.array([0.3, 0.6, 0.95])
    runs = table(
        vanilla,
        *({"seed": i, "test_accuracy": value} for i, value in enumerate(base)),
        *({"seed": i, "test_accuracy": value, **HEADS} for i, value in enumerate(other)),
        {"seed": 7, "test_accuracy": 0.0, **HEADS},  # without a partner
    )
    (row,) = differences(runs, ["hold-linear"]).to_dict("records")
    expected = stats.ttest_ind(other, base, equal_var=False).confidence_interval(0.95)
    assert row["n"] == 3 and row["difference"] == pytest.approx((other - base).mean())
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))


def test_a_single_pair_has_no_interval(vanilla) -> None:
    runs = table(vanilla, {"test_accuracy": 0.2}, {"test_accuracy": 0.3, **HEADS})
    (row,) = differences(runs, ["hold-linear"]).to_dict("records")
    assert row["difference"] == pytest.approx(0.1) and np.isnan(row["low"])


def test_vanilla_is_given_its_best_learning_rate(vanilla) -> None:
    runs = table(
        vanilla,
        {"val_accuracy": 0.4, "test_accuracy": 0.9},
        {"val_accuracy": 0.6, "test_accuracy": 0.7, "lr": 0.3},
        {"val_accuracy": 0.8, "test_accuracy": 0.1, "epochs": 18},  # longer: not a rate's merit
        {"test_accuracy": 0.75, **HEADS},
    )
    assert best_rates(runs).to_dict() == {"digits plain 6 atan": 0.3}
    assert differences(runs, ["hold-linear"], best_rate=True)["base"].tolist() == [0.7]
    assert differences(runs, ["hold-linear"])["base"].tolist() == [0.9]
    assert differences(runs, ["hold-linear"], longer=True)["base"].tolist() == [0.1]


def test_shortcuts_can_have_theirs(vanilla) -> None:
    runs = table(
        vanilla,
        {"test_accuracy": 0.5},
        {"val_accuracy": 0.4, "test_accuracy": 0.9, **HEADS},
        {"val_accuracy": 0.6, "test_accuracy": 0.7, "lr": 0.3, **HEADS},
        {"depth": 12},
        {"depth": 12, **HEADS},  # at one rate only
    )
    own = differences(runs, ["hold-linear"], best_rate=True, own_rate=True)
    assert own["mean"].tolist() == [0.7]
    assert differences(runs, ["hold-linear"], best_rate=True)["mean"].tolist() == [0.9, 0.5]


def test_learning_rates_are_compared_on_the_seeds_they_share(vanilla) -> None:
    runs = table(
        vanilla,
        {"val_accuracy": 0.4},
        {"val_accuracy": 0.5, "lr": 0.3},
        {"val_accuracy": 0.9, "seed": 1},  # an easy seed, of which 0.3 is not finished
    )
    assert best_rates(runs).to_dict() == {"digits plain 6 atan": 0.3}


def test_a_rate_of_one_seed_does_not_decide_among_those_of_three(vanilla) -> None:
    runs = table(
        vanilla,
        *(
            {"seed": seed, "val_accuracy": accuracy}
            for seed, accuracy in enumerate((0.4, 0.8, 0.8))
        ),
        *({"seed": seed, "lr": 0.3, "val_accuracy": 0.5} for seed in range(3)),
        {"lr": 0.01, "val_accuracy": 0.9},
    )
    assert best_rates(runs).to_dict() == {"digits plain 6 atan": 0.1}
    assert rates_tried(runs) == {"digits plain 6 atan": [0.1, 0.3]}


@pytest.mark.parametrize(("others", "expected"), [((0.2, 0.3, 0.4, 0.5), 1), ((4, 3, 2, 1), -1)])
def test_whether_seeds_make_runs_alike(vanilla, others, expected) -> None:
    base = [{"seed": i, "test_accuracy": 0.1 * i} for i in range(4)]
    own = [{"seed": i, "test_accuracy": value, **HEADS} for i, value in enumerate(others)]
    assert seeds_correlate(table(vanilla, *base, *own), "hold-linear") == pytest.approx(expected)
    assert np.isnan(seeds_correlate(table(vanilla, *base[:3], *own), "hold-linear"))


def test_time_to_vanillas_accuracy(vanilla) -> None:
    runs = table(
        vanilla,
        *({"seed": seed, "val_accuracy": 0.6, "seconds": 10.0} for seed in (0, 1)),
        *({"seed": seed, **HEADS} for seed in (0, 1)),
    )
    keys = runs.loc[runs["method"] == "hold-linear", "run"].tolist()
    history = pd.DataFrame(
        {
            "run": [keys[0]] * 3 + [keys[1]] * 2,
            "seconds": [2.0, 4.0, 6.0, 2.0, 4.0],
            "val_accuracy": [0.5, 0.6, 0.7, 0.1, 0.2],
        }
    )
    first = history[history["run"] == keys[0]]
    alone = times_to_vanilla(runs[runs["seed"] == 0], first, "hold-linear")
    assert alone["share"].tolist() == [0.4]
    # The second seed never gets there.
    assert times_to_vanilla(runs, history, "hold-linear")["share"].tolist() == [np.inf]


def test_firing_by_thirds_of_the_layers(vanilla) -> None:
    both = {"seed": 0}, {"seed": 0, **HEADS}
    runs = table(vanilla, *both, {"seed": 1, **HEADS})  # seed 1 has no partner
    rates = {"vanilla": [0, 0.2, 0.3, 0.3, 0.4, 0.6], "hold-linear": [0.5] * 6}
    firing = pd.DataFrame(
        {
            "run": row.run,
            "layer": layer,
            "firing_rate": rate + (row.seed and 0.4),
            "untrained": np.nan if row.method == "vanilla" else 0.1 * layer,  # an earlier run
        }
        for row in runs.itertuples()
        for layer, rate in enumerate(rates[row.method], start=1)
    )
    found = firing_by_place(runs, firing, "hold-linear").loc["digits plain 6 atan"]
    thirds = ["first", "middle", "last"]
    assert [found[third, "vanilla"] for third in thirds] == pytest.approx([0.1, 0.3, 0.5])
    assert [found[third, "hold-linear"] for third in thirds] == pytest.approx([0.5] * 3)
    assert [found[third, "untrained"] for third in thirds] == pytest.approx([0.15, 0.35, 0.55])


def test_vanishing_and_exploding_gradients_are_told_apart(vanilla) -> None:
    runs = table(
        vanilla,
        *({"seed": seed, "spikes": norm} for seed, norm in enumerate((1.0, 400.0, 3.0))),
        {"spikes": 20.0, "clip": 1.0},
        {"spikes": 7.0, "lr": 0.3},
        {"spikes": 7.0, **HEADS},
    )
    first = dict(zip(runs["run"], runs["spikes"], strict=True))  # norms, carried along
    gradients = pd.DataFrame(
        {
            "run": run,
            "epoch": epoch,
            "place": place,
            "weight_grad_norm": 2.0 if place == "last" else norm / (1 + epoch),
            "coherence": 0.9 if place == "last" else 0.1 * int(place),
        }
        for run, norm in first.items()
        for epoch in (0, 2)
        for place in ("1", "2", "3", "last")
    )
    found = vanillas_gradients(runs, gradients)
    assert found.index.tolist() == ["digits plain 6 atan", "digits plain 6 atan clipped"]
    assert found["before"].tolist() == pytest.approx([1.5, 10])  # medians
    assert found["later"].tolist() == pytest.approx([0.5, 10 / 3])
    assert found["coherence"].tolist() == pytest.approx([0.2, 0.2])
