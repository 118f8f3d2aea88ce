import numpy as np
import pandas as pd

from sj_shortcut import plot_gradient_sources
from tests.plots.tools import flow, labels, marked
from tests.refusals import refused


def test_sources_stack_to_one() -> None:
    frame = pd.concat([flow(2, share=[0.25, 1.0]), flow(2, source="sn1", share=[0.75, 0.0])])
    ax = plot_gradient_sources(frame)
    bars = [(bar.get_x() + 0.5, bar.get_y(), bar.get_height()) for bar in ax.patches]
    assert bars == [(1, 0, 0.25), (2, 0, 1.0), (1, 0.25, 0.75), (2, 1.0, 0.0)]
    assert labels(ax) == ["main loss", "sn1"]


def test_sources_that_pull_back_hang_below() -> None:
    frame = pd.concat([flow(1, share=1.5), flow(1, source="sn1", share=-0.5)])
    ax = plot_gradient_sources(frame)
    assert [(bar.get_y(), bar.get_height()) for bar in ax.patches] == [(0, 1.5), (0, -0.5)]
    assert ax.get_ylim()[0] < -0.5 and ax.get_ylim()[1] > 1.5


def test_sources_by_norm_are_shares_of_the_sum() -> None:
    frame = pd.concat([flow(1, weight_grad_norm=1.0), flow(1, source="sn1", weight_grad_norm=3.0)])
    ax = plot_gradient_sources(frame, y="weight_grad_norm")
    assert [bar.get_height() for bar in ax.patches] == [0.25, 0.75]


def test_sources_mark_layers_without_gradient() -> None:
    frame = flow(3, share=[1.0, np.nan, np.nan], weight_grad_norm=[1.0, 0.0, np.nan])
    ax = plot_gradient_sources(frame)
    assert marked(ax) == {"v": [2], "x": [3]}


def test_sources_of_many_heads_thin_their_legend() -> None:
    frame = pd.concat([flow(3, source=f"body.{i}", share=0.05) for i in range(20)])
    assert labels(plot_gradient_sources(frame))[::5] == ["body.0", "body.19"]


def test_sources_need_a_split() -> None:
    with refused(
        ValueError,
        "the frame has no column 'source' and 'share'; its columns are: layer, depth. Split the "
        "gradient by its sources: gradient_flow(..., by_source=True).",
    ):
        plot_gradient_sources(flow()[["layer", "depth"]])
