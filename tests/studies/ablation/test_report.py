"""The page of the ablation study."""

from analysis.ablation.report import by_setting
from tests.studies.ablation.tables import HEADS, table


def test_accuracies_by_setting_are_means_over_all_seeds(vanilla) -> None:
    seeds = [{"seed": seed, "val_accuracy": 0.5 + 0.2 * seed} for seed in range(2)]
    methods = [HEADS | {"schedule": name} for name in ("hold-linear", "constant", "linear")]
    whole = [each | method for each in seeds for method in ({}, *methods)]
    lone = HEADS | {"schedule": "cosine", "seed": 0, "val_accuracy": 0.9}
    page = by_setting(table(vanilla, *whole, lone))
    assert page.count("60.0%") == 4
    assert "cosine" not in page
