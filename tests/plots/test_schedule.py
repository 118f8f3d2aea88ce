import matplotlib.pyplot as plt
import pytest

from sj_shortcut import ConstantSchedule, EvolutionarySchedule, plot_schedule
from tests.plots.tools import labels
from tests.refusals import refused


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
    ("schedule", "epochs", "error", "told"),
    [
        (0.5, 10, TypeError, "schedule '' must be callable, got float."),
        ({"half": 0.5}, 10, TypeError, "schedule 'half' must be callable, got float."),
        ({}, 10, ValueError, "there is no schedule to draw: the mapping is empty."),
        (ConstantSchedule(), 0, ValueError, "epochs must be at least 1, got 0."),
        (ConstantSchedule(), 2.5, TypeError, "epochs must be an int, got float."),
        (ConstantSchedule(), True, TypeError, "epochs must be an int, got bool."),
    ],
)
def test_schedule_refuses(schedule, epochs, error, told) -> None:
    with refused(error, told):
        plot_schedule(schedule, epochs)
    assert plt.get_fignums() == []
