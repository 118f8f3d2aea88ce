import numpy as np

from sj_shortcut import plot_gradient_flow
from tests.plots.tools import drawn, flow, labels, marked


def test_flow_marks_zeros_and_gaps_at_the_lower_edge_and_says_so() -> None:
    frame = flow(6)
    frame.loc[1, "weight_grad_norm"] = 0.0
    frame.loc[2, "weight_grad_norm"] = np.nan
    frame.loc[3, "weight_grad_norm"] = np.inf
    ax = plot_gradient_flow(frame)
    ((_, y),) = drawn(ax)
    assert np.isnan(y).tolist() == [False, True, True, True, False, False]
    assert marked(ax) == {"v": [2], "x": [3, 4]}
    assert labels(ax) == ["vanilla", "exactly 0", "none or NaN"]
    assert ax.get_ylim()[0] < 1e-4


def test_flow_of_nothing_but_zeros_is_a_figure_too() -> None:
    ax = plot_gradient_flow(flow(weight_grad_norm=0.0))
    ax.figure.draw_without_rendering()
    assert marked(ax) == {"v": [1, 2, 3, 4, 5]}
