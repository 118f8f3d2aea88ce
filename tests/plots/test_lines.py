import pandas as pd

from sj_shortcut import plot_gradient_flow
from tests.plots.tools import drawn, flow, names_along


def test_flow_sums_seeds_up_by_median_and_range() -> None:
    frame = pd.concat([flow(3, weight_grad_norm=norm) for norm in (1.0, 2.0, 9.0)])
    ax = plot_gradient_flow(frame)
    assert drawn(ax) == [([1, 2, 3], [2.0, 2.0, 2.0])]
    (band,) = ax.collections
    box = band.get_paths()[0].get_extents()
    assert (box.y0, box.y1) == (1.0, 9.0)


def test_flow_over_a_number_and_by_layer() -> None:
    frame = pd.concat([flow(2, epoch=epoch) for epoch in (0, 1)])
    ax = plot_gradient_flow(frame, x="epoch", hue="layer")
    assert [x for x, _ in drawn(ax)] == [[0, 1], [0, 1]]
    ax = plot_gradient_flow(frame[frame.epoch == 0], x="layer")
    assert names_along(ax) == ["layer1.0.conv1", "layer1.0.conv2"]
