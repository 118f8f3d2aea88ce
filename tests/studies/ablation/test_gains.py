"""The figure that says whether shortcuts help, and the best network of each arm."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex

from analysis.ablation.gains import (
    BLUE,
    GREY,
    best_networks,
    figure_help,
    gains,
    networks_section,
    shown,
)
from tests.studies.ablation.tables import HEADS, table

HANDOVER = {**HEADS, "schedule": "ratio-each"}


def seeds(values, **row):
    return [{"seed": i, "test_accuracy": value, **row} for i, value in enumerate(values)]


@pytest.fixture
def runs(vanilla):
    return table(
        vanilla,
        *seeds([0.9, 0.8], val_accuracy=0.7, spikes=10.0),
        *seeds([0.82, 0.9], spikes=9.0, **HANDOVER),
        *seeds([0.1, 0.2], depth=18, val_accuracy=0.4, spikes=1.0),
        *seeds([0.4, 0.6], depth=18, lr=0.3, val_accuracy=0.6, spikes=4.0),
        *seeds([0.7, 0.9], depth=18, spikes=6.0, **HANDOVER),
        *seeds([1.0, 1.0], depth=18, lr=0.3, val_accuracy=1.0, **HANDOVER),  # not the defaults
        *seeds([0.3, 0.3], depth=18, surrogate="rect"),  # ATan is there
        *seeds([0.3, 0.4], depth=18, surrogate="rect", **HANDOVER),
        *seeds([0.1, 0.1], depth=12),
        *seeds([0.9, 0.9], depth=12, **HANDOVER),
        *seeds([0.1, 0.1], depth=30, surrogate="rect"),
        *seeds([0.1, 0.1], depth=30, surrogate="rect", **HANDOVER),
        *seeds([0.1, 0.1], depth=30),  # without a partner
    )


def test_largest_gain_first_against_vanillas_best_rate(runs) -> None:
    found = gains(runs).set_index("setting")
    assert found.index[0] == "digits plain 12 atan" and found["gain"].is_monotonic_decreasing
    row = found.loc["digits plain 18 atan"]
    assert (row["vanilla"], row["shortcuts"], row["gain"]) == pytest.approx((0.5, 0.8, 0.3))
    assert row["vanilla_seeds"] == [0.4, 0.6] and row["shortcuts_seeds"] == [0.7, 0.9]
    assert row["spikes"] == pytest.approx(1.5) and row["rates"] == 2
    assert found["shallow"].tolist() == pytest.approx([0.85] * len(found))


def test_one_row_a_network_and_the_one_that_nothing_helps(runs) -> None:
    assert shown(gains(runs))["setting"].tolist() == [
        "digits plain 18 atan",
        "digits plain 6 atan",
        "digits plain 30 rect",
    ]


def test_the_figure_has_a_grey_and_a_blue_dot_a_row(runs) -> None:
    figure = figure_help({"runs": runs})
    assert figure is not None
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "digits, plain 18",
        "digits, plain 6",
        "digits, plain 30, rectangle",
    ]
    dots = [line for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata())]
    where = {
        (to_hex(line.get_color()), int(line.get_ydata()[0])): float(line.get_xdata()[0])
        for line in dots
    }
    assert where[to_hex(GREY), 0] == pytest.approx(0.5)
    assert where[to_hex(BLUE), 0] == pytest.approx(0.8) and len(where) == 6
    hollow = [int(line.get_ydata()[0]) for line in dots if line.get_markerfacecolor() == "white"]
    assert hollow == [1, 2]  # one rate only
    assert [text.get_text() for text in ax.texts][:2] == ["× 1.50", "× 0.90"]
    plt.close(figure)


def test_no_figure_of_vanilla_alone(vanilla) -> None:
    assert figure_help({"runs": table(vanilla, {})}) is None


def test_the_best_network_of_each_arm_is_chosen_by_validation(vanilla) -> None:
    runs = table(
        vanilla,
        *seeds([0.5, 0.6, 0.7], val_accuracy=0.8),
        *seeds([0.9, 0.9, 0.9], depth=18, val_accuracy=0.7),
        *seeds([0.9, 0.9], depth=12, val_accuracy=0.9),  # too few seeds
        *seeds([0.8, 0.8, 0.8], val_accuracy=0.9, **HANDOVER),
        *seeds([0.7, 0.7, 0.7], depth=18, val_accuracy=0.9, **HANDOVER),
    )
    assert best_networks(runs, "vanilla")["setting"].tolist() == ["digits plain 6 atan"]
    assert len(best_networks(runs, "handover")) == 2
    said = networks_section(runs)
    assert (
        "| digits plain 6 atan, lr 0.1: 60.0% (3) | digits plain 18 atan, lr 0.1: 70.0% (3)" in said
    )
    assert "2 tie, 70.0% to 80.0%" in said and "+10.0 [-14.8, +34.8]" in said
