import numpy as np
import pandas as pd

from sj_shortcut import plot_gradient_flow
from tests.plots.tools import drawn, flow, labels, marked
from tests.refusals import refused


def test_flow_draws_each_run_as_it_is() -> None:
    ax = plot_gradient_flow(pd.concat([flow(3), flow(4, run="shortcuts")]))
    (x1, y1), (x2, y2) = drawn(ax)
    assert x1 == [1, 2, 3] and np.allclose(y1, [1e-4, 1e-2, 1])
    assert x2 == [1, 2, 3, 4] and y2[-1] == 1
    assert ax.get_yscale() == "log"
    assert labels(ax) == ["vanilla", "shortcuts"]


def test_flow_of_nothing_but_gaps_is_refused() -> None:
    with refused(
        ValueError,
        "no row of the frame has a number in 'weight_grad_norm', which is missing where no "
        "gradient arrived.",
    ):
        plot_gradient_flow(flow(weight_grad_norm=np.nan))
    with refused(ValueError, "no row of the frame has a number in 'mine'."):
        plot_gradient_flow(flow(mine=np.nan), y="mine")


def test_flow_of_shares_is_linear_and_zero_is_a_number() -> None:
    ax = plot_gradient_flow(flow(alive=[0.0, 0.2, 0.4, 0.6, 0.8]), y="alive")
    assert (ax.get_yscale(), ax.get_ylabel()) == ("linear", "share of potentials alive")
    assert marked(ax) == {} and drawn(ax)[0][1] == [0.0, 0.2, 0.4, 0.6, 0.8]


def test_flow_of_a_column_of_the_user_is_logarithmic() -> None:
    ax = plot_gradient_flow(flow(my_ratio=[0.0, 0.1, 1, 10, 100]), y="my_ratio")
    assert (ax.get_yscale(), ax.get_ylabel()) == ("log", "my ratio")
    assert marked(ax) == {"v": [1]}


def test_flow_without_runs_is_one_line_without_legend() -> None:
    ax = plot_gradient_flow(flow().drop(columns="run"))
    assert len(drawn(ax)) == 1 and ax.get_legend() is None
