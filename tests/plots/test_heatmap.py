import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from sj_shortcut import plot_gradient_heatmap
from tests.plots.tools import flow, labels, names_along


def test_heatmap_has_the_first_layer_on_top_and_epochs_in_order() -> None:
    frame = pd.concat([flow(3, epoch=epoch, weight_grad_norm=1.0 + epoch) for epoch in (2, 0, 1)])
    ax = plot_gradient_heatmap(frame.sample(frac=1, random_state=0))
    assert names_along(ax, "y") == ["layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert names_along(ax) == ["0", "1", "2"]
    mesh = ax.collections[0]
    assert mesh.get_array().reshape(3, 3).tolist() == [[1, 2, 3]] * 3
    assert isinstance(mesh.norm, mpl.colors.LogNorm)


def test_heatmap_tells_zeros_from_gaps() -> None:
    frame = flow(4)
    frame.loc[0, "weight_grad_norm"] = 0.0
    frame.loc[1, "weight_grad_norm"] = np.nan
    ax = plot_gradient_heatmap(frame)
    assert labels(ax) == ["exactly 0", "none or NaN"]
    assert ax.collections[0].get_array().mask.ravel().tolist() == [True, True, False, False]
    assert len(ax.patches) == 1 and ax.patch.get_hatch()


def test_heatmap_of_shares_is_linear_and_zero_is_a_number() -> None:
    ax = plot_gradient_heatmap(flow(coherence=[0.0, 0.1, 0.2, 0.3, 0.4]), column="coherence")
    assert not isinstance(ax.collections[0].norm, mpl.colors.LogNorm)
    assert labels(ax) == []


def test_heatmap_of_one_value_and_of_zeros_alone() -> None:
    for value in (0.0, 0.5):
        plot_gradient_heatmap(flow(weight_grad_norm=value)).figure.draw_without_rendering()


def test_heatmap_refuses_several_runs_and_says_what_differs() -> None:
    frame = pd.concat([flow(), flow(run="shortcuts", weight_grad_norm=3.0)])
    with pytest.raises(ValueError, match="2 values of 'weight_grad_norm'.*differ in run"):
        plot_gradient_heatmap(frame)


def test_heatmap_refuses_a_column_of_gaps() -> None:
    with pytest.raises(ValueError, match="no row of the frame has a number in 'coherence'"):
        plot_gradient_heatmap(flow(coherence=np.nan), column="coherence")
