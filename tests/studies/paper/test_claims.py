"""What is said of the claims, from tables made by hand."""

import pandas as pd
import pytest

from analysis.paper.claims import (
    at_best_rate,
    best_rate,
    compared,
    in_short,
    labelled,
    second_claim,
)


def table(*rows: dict[str, object]) -> pd.DataFrame:
    usual = {"net": "resnet", "depth": 18, "method": "vanilla", "lr": 0.01, "seed": 0}
    scores = {"val_accuracy": 0.5, "test_accuracy": 0.5}
    return labelled(pd.DataFrame([usual | scores | row for row in rows]))


def seeds(*accuracies: float, **more: object) -> list[dict[str, object]]:
    return [{"seed": i, "test_accuracy": value, **more} for i, value in enumerate(accuracies)]


@pytest.mark.parametrize(
    ("accuracies", "answer"),
    [
        ((0.60, 0.61, 0.62), "yes"),
        ((0.40, 0.41, 0.42), "no"),
        ((0.48, 0.55, 0.52), "not settled: the interval has 0 in it"),
        ((0.60,), "not yet: one seed"),
    ],
)
def test_answers(accuracies, answer) -> None:
    runs = table(*seeds(0.50, 0.51, 0.49), *seeds(*accuracies, method="eq6"))
    verdict = compared(runs, ("eq6", 18), ("vanilla", 18))
    assert verdict is not None and verdict.answer == answer
    assert verdict.seeds == (len(accuracies), 3)
    assert compared(runs, ("eq10", 18), ("vanilla", 18)) is None


def test_vanilla_has_the_best_of_its_rates_by_validation() -> None:
    runs = table(
        {"val_accuracy": 0.4, "test_accuracy": 0.9},
        {"val_accuracy": 0.6, "test_accuracy": 0.7, "lr": 0.003},
        {"val_accuracy": 0.1, "lr": 0.03},
        {"val_accuracy": 0.9, "seed": 1},  # an easy seed, of which other rates are not finished
        {"depth": 34, "val_accuracy": 0.3, "test_accuracy": 0.3},
        {"method": "eq6", "test_accuracy": 0.8},
        {"net": "sew", "depth": 34, "val_accuracy": 0.99, "test_accuracy": 0.99},
    )
    assert best_rate(runs, 18) == 0.003 and best_rate(runs, 34) == 0.01
    chosen = at_best_rate(runs)
    assert sorted(chosen["test_accuracy"]) == [0.3, 0.7, 0.8, 0.99]
    assert set(chosen[chosen["depth"] == 34]["method"]) == {"vanilla", "sew"}


@pytest.mark.parametrize(
    ("eq6", "eq10", "answer"),
    [
        ((0.60, 0.61), (0.70, 0.71), "yes"),
        ((0.40, 0.41), (0.70, 0.71), "no"),
        ((0.60, 0.61), (0.60, 0.62), "not settled: an interval has 0 in it"),
        ((0.60,), (0.7,), "not answered yet: one seed (+9.5, +10.0 points) has no interval"),
        ((0.60, 0.61), (), "not answered yet: runs are missing"),
        ((0.40, 0.41), (), "no"),  # whatever the missing ones say
    ],
)
def test_a_claim_holds_if_all_its_parts_do(eq6, eq10, answer) -> None:
    runs = table(*seeds(0.50, 0.51), *seeds(*eq6, method="eq6"), *seeds(*eq10, method="eq10"))
    found = in_short(runs)
    assert found["Claim 1, ResNet-18: vanilla < Eq. 6 < Eq. 10"] == answer
    assert found["Claim 2: with Eq. 10 it is better"] == "not answered yet: runs are missing"
    assert len(found) == 4


def test_the_second_claim_asks_both_ways() -> None:
    runs = table(
        *seeds(0.5, 0.51),
        *seeds(0.4, 0.41, depth=34),
        *seeds(0.5, 0.51, method="eq10"),
        *seeds(0.6, 0.61, method="eq10", depth=34),
    )
    found = {verdict.text: verdict.answer for verdict in second_claim(runs)}
    assert found == {
        "vanilla, 18 layers > vanilla, 34 layers": "yes",
        "eq10, 34 layers > eq10, 18 layers": "yes",
    }
