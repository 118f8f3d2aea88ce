import matplotlib.pyplot as plt
import pandas as pd
import pytest

from sj_shortcut import plot_gradient_flow
from tests.plots.tools import LAYER_PLOTS, PLOTS, flow, labels, names_along


@pytest.mark.parametrize("plot", PLOTS)
def test_refuses_what_is_no_frame(plot) -> None:
    with pytest.raises(TypeError, match="must be a pandas DataFrame, got dict"):
        plot({"layer": []})
    with pytest.raises(ValueError, match="frame is empty"):
        plot(flow().iloc[:0])
    assert plt.get_fignums() == []


@pytest.mark.parametrize("plot", LAYER_PLOTS)
def test_names_missing_columns_and_those_there_are(plot) -> None:
    with pytest.raises(ValueError, match=r"no column .*'depth'.*its columns are: layer, run"):
        plot(flow()[["layer", "run"]])
    assert plt.get_fignums() == []


def test_depth_is_a_number_where_runs_name_layers_differently() -> None:
    other = flow().assign(layer=[f"body.{i}" for i in range(5)], run="other")
    assert names_along(plot_gradient_flow(pd.concat([flow(), other]))) == ["1", "2", "3", "4", "5"]


def test_flow_refuses_parts_of_a_gradient_as_if_they_were_runs() -> None:
    frame = pd.concat([flow(), flow(source="sn1")])
    with pytest.raises(ValueError, match="split by source"):
        plot_gradient_flow(frame)
    assert labels(plot_gradient_flow(frame, hue="source")) == ["main", "sn1"]


def test_flow_refuses_a_hue_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no column 'method'"):
        plot_gradient_flow(flow(), hue="method")
