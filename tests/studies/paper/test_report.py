"""The page of the study of the paper's claims."""

import pandas as pd

from analysis.paper.report import not_bracketed, rates


def vanilla(*found: tuple[int, float, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {"method": "vanilla", "seed": 0, "depth": depth, "lr": lr, "val_accuracy": accuracy}
        for depth, lr, accuracy in found
    )


def test_a_best_rate_at_the_edge_is_told() -> None:
    inside = vanilla((18, 0.003, 0.4), (18, 0.01, 0.5), (18, 0.03, 0.3))
    assert not_bracketed(inside) == ""
    edge = vanilla((18, 0.003, 0.4), (18, 0.01, 0.5), (34, 0.003, 0.5), (34, 0.01, 0.4))
    said = not_bracketed(edge)
    assert "ResNet-18: the best is at the edge" in said and "ResNet-34: the best is" in said


def test_rates_are_shown_with_seeds_and_the_chosen_one() -> None:
    said = rates(vanilla((18, 0.003, 0.4), (18, 0.01, 0.5), (34, 0.01, 0.3)))
    assert "| ResNet-18 | 40.0 (1) | 50.0 (1) | 0.01 |" in said
    assert "| ResNet-34 |  | 30.0 (1) | 0.01 |" in said
