import numpy as np
import pandas as pd
import pytest

from sj_shortcut import plot_gradient_flow
from tests.plots.tools import drawn, flow, labels


def test_flow_draws_each_run_as_it_is() -> None:
    ax = plot_gradient_flow(pd.concat([flow(3), flow(4, run="shortcuts")]))
    (x1, y1), (x2, y2) = drawn(ax)
    assert x1 == [1, 2, 3] and np.allclose(y1, [1e-4, 1e-2, 1])
    assert x2 == [1, 2, 3, 4] and y2[-1] == 1
    assert ax.get_yscale() == "log"
    assert labels(ax) == ["vanilla", "shortcuts"]


def test_flow_of_nothing_but_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="no row of the frame has a number in 'weight_grad_norm'"):
        plot_gradient_flow(flow(weight_grad_norm=np.nan))


def test_flow_without_runs_is_one_line_without_legend() -> None:
    ax = plot_gradient_flow(flow().drop(columns="run"))
    assert len(drawn(ax)) == 1 and ax.get_legend() is None
