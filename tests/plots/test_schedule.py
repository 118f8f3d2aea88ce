import matplotlib.pyplot as plt
import pytest

from sj_shortcut import ConstantSchedule, EvolutionarySchedule, plot_schedule
from tests.plots.tools import labels


def test_schedule_draws_what_training_uses() -> None:
    schedule = EvolutionarySchedule(10)
    ax = plot_schedule(schedule, 10)
    line, points = ax.lines
    assert list(points.get_ydata()) == [schedule(epoch) for epoch in range(10)]
    assert line.get_xdata()[-1] == 10 and line.get_ydata()[-1] == schedule(10)
    assert schedule.last_epoch == 0
    assert ax.get_legend() is None


def test_schedules_by_name() -> None:
    ax = plot_schedule({"a": ConstantSchedule(0.5), "b": lambda epoch: 1.0}, 300)
    assert labels(ax) == ["a", "b"]
    assert ax.get_ylim()[0] <= 0


@pytest.mark.parametrize(
    ("schedule", "epochs", "error", "match"),
    [
        (0.5, 10, TypeError, "must be callable"),
        ({"half": 0.5}, 10, TypeError, "'half' must be callable"),
        ({}, 10, ValueError, "no schedule"),
        (ConstantSchedule(), 0, ValueError, "at least 1"),
        (ConstantSchedule(), 2.5, TypeError, "must be an int"),
    ],
)
def test_schedule_refuses(schedule, epochs, error, match) -> None:
    with pytest.raises(error, match=match):
        plot_schedule(schedule, epochs)
    assert plt.get_fignums() == []
