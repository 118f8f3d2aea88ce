import matplotlib.pyplot as plt
import numpy as np
import pytest

from sj_shortcut import plot_history
from tests.plots.tools import PLOTS, flow, history


@pytest.mark.parametrize("plot", PLOTS)
def test_makes_one_figure_of_column_width_where_no_axes_is_given(plot) -> None:
    ax = plot(flow())
    assert plt.get_fignums() == [ax.figure.number]
    assert ax.figure.get_figwidth() == 3.3


def test_history_divides_the_room_of_a_placed_axes() -> None:
    figure = plt.figure()
    ax = figure.add_axes((0.2, 0.2, 0.6, 0.6))
    plot_history(history(), ax=ax)
    top, bottom = (axes.get_position() for axes in figure.axes)
    assert np.allclose([bottom.y0, top.y1], [0.2, 0.8], atol=0.04)
