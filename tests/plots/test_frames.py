import matplotlib.pyplot as plt
import pandas as pd
import pytest

from sj_shortcut import plot_gradient_flow, plot_gradient_heatmap
from tests.plots.tools import LAYER_PLOTS, PLOTS, flow, labels, names_along
from tests.refusals import refused


@pytest.mark.parametrize("plot", PLOTS)
def test_refuses_what_is_no_frame(plot) -> None:
    with refused(TypeError, "frame must be a pandas DataFrame, got dict."):
        plot({"layer": []})
    with refused(ValueError, "the frame is empty: there is nothing to draw."):
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
    with refused(
        ValueError,
        "the frame is split by source, and its rows are parts of gradients: draw it with "
        'plot_gradient_sources, tell the parts apart by hue="source", or choose one of them, as '
        'in frame[frame.source == "main"].',
    ):
        plot_gradient_flow(frame)
    assert labels(plot_gradient_flow(frame, hue="source")) == ["main", "sn1"]


def test_flow_refuses_a_hue_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no column 'method'"):
        plot_gradient_flow(flow(), hue="method")


def test_several_values_in_one_place_are_told_by_what_differs() -> None:
    frame = pd.concat([flow(t=t, rank=0, weight_grad_norm=1.0 + t) for t in (0, 1, 2)])
    frame["relative"] = frame.weight_grad_norm / 3
    several = "the frame has 3 values of 'weight_grad_norm' for layer 'layer1.0.conv1', epoch 0."
    with refused(ValueError, f"{several} They differ in t: choose one of each."):
        plot_gradient_heatmap(frame)
    with refused(ValueError, several):
        plot_gradient_heatmap(frame.drop(columns=["t", "relative"]))
