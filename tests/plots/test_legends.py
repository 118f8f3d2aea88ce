import pandas as pd
import pytest

from sj_shortcut import plot_gradient_coherence, plot_gradient_flow, plot_gradient_sources
from tests.plots.tools import PLOTS, flow


@pytest.mark.parametrize("plot", PLOTS)
def test_no_legend_over_data(plot) -> None:
    frame = pd.concat([flow(12), flow(12, run="shortcuts", epoch=1, source="sn1")])
    if plot is plot_gradient_sources:
        frame = frame.assign(run="one", epoch=0)
    elif "source" in frame:
        frame = frame.drop(columns="source")
    ax = plot(frame)
    ax.figure.draw_without_rendering()
    legend = ax.get_legend()
    if legend is not None:
        assert not legend.get_window_extent().overlaps(ax.get_window_extent().padded(-1))


@pytest.mark.parametrize("plot", [plot_gradient_flow, plot_gradient_coherence])
def test_legend_can_be_left_out(plot) -> None:
    assert plot(flow(), legend=False).get_legend() is None
