import pandas as pd
import pytest

from sj_shortcut import plot_history
from tests.plots.tools import drawn, history, labels


def test_history_has_loss_above_accuracy_over_one_axis() -> None:
    ax = plot_history(pd.concat([history(), history("shortcuts")]))
    top, bottom = ax.figure.axes
    assert top is ax
    assert (top.get_ylabel(), bottom.get_ylabel()) == ("loss", "accuracy")
    assert drawn(bottom)[0] == ([1, 2, 3], [0.1, 0.5, 0.8])
    ax.figure.draw_without_rendering()
    assert bottom.get_window_extent().y1 < top.get_window_extent().y0
    assert bottom.get_xlim() == top.get_xlim()
    assert not top.get_xlabel() and bottom.get_xlabel() == "epoch"
    assert labels(top) == ["vanilla", "shortcuts"]


def test_history_draws_the_columns_there_are() -> None:
    ax = plot_history(history().drop(columns="loss"))
    assert ax.figure.axes == [ax] and ax.get_ylabel() == "accuracy"
    with pytest.raises(ValueError, match="no column 'loss' and 'accuracy'"):
        plot_history(history()[["epoch"]])


def test_history_tells_training_from_test_by_dashes() -> None:
    frame = pd.concat([history(split="train"), history(split="test")])
    ax = plot_history(frame, style="split")
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]
    assert len({line.get_color() for line in ax.lines}) == 1
    assert labels(ax) == ["vanilla", "train", "test"]
