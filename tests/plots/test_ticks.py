import pytest

from sj_shortcut import plot_gradient_coherence, plot_gradient_flow
from tests.plots.tools import flow, names_along


@pytest.mark.parametrize("layers", [1, 2, 8, 50, 200])
@pytest.mark.parametrize("plot", [plot_gradient_flow, plot_gradient_coherence])
def test_layer_names_do_not_overlap(plot, layers) -> None:
    ax = plot(flow(layers))
    names = names_along(ax)
    assert names[0] == "layer1.0.conv1"
    assert names[-1] == flow(layers).layer.iloc[-1]
    boxes = [tick.get_window_extent() for tick in ax.get_xticklabels()]
    assert all(a.x1 <= b.x0 for a, b in zip(boxes, boxes[1:], strict=False))
    size = ax.get_xticklabels()[0].get_size()
    assert size >= 5  # points: legible in print
    if layers == 50:
        assert len(names) >= 15


def test_layer_names_follow_the_size_of_the_figure() -> None:
    ax = plot_gradient_flow(flow(50))
    few = len(names_along(ax))
    ax.figure.set_figwidth(12)
    assert len(names_along(ax)) == 50 > few


def test_long_names_keep_their_ends() -> None:
    name = "encoder.backbone.stages.3.blocks.17.attention.projection"
    assert names_along(plot_gradient_flow(flow(1, layer=name)))[0].endswith("attention.projection")
