"""Outlines of histograms: what is drawn is what was counted."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.patches import StepPatch
from torch import nn

from sj_shortcut import gradient_histogram, plot_gradient_histogram
from tests.nets.small import Net, images, labels
from tests.plots.tools import labels as legend_labels
from tests.refusals import refused


def bins(edges: list[float], counts: list[int], run: str = "vanilla") -> pd.DataFrame:
    columns = {"layer": "conv1", "low": edges[:-1], "high": edges[1:], "count": counts, "run": run}
    return pd.DataFrame(columns)


def outlines(ax) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (patch.get_data().values, patch.get_data().edges)
        for patch in ax.patches
        if isinstance(patch, StepPatch)
    ]


def test_shares_are_the_counts_of_equal_bins() -> None:
    frame = bins([-4.0, -1.0, 1.0, 2.0], [30, 60, 10])
    (values, edges) = outlines(plot_gradient_histogram(frame, limit=4))[0]
    width = 8 / 61
    assert np.diff(edges) == pytest.approx([width] * 61)
    values = np.nan_to_num(values)
    assert values.sum() == pytest.approx(1)
    middle = edges[:-1] + width / 2
    # Away from edges, the height is the share times how much of the wide bin a narrow one takes.
    for at, share, wide in ((-3.0, 0.3, 3), (0.0, 0.6, 2), (1.5, 0.1, 1)):
        here = np.abs(middle - at).argmin()
        assert values[here] == pytest.approx(share * width / wide)
    assert values[middle > 2.2].sum() == 0


def test_zeros_are_in_the_middle() -> None:
    frame = pd.concat([bins([0.0, 0.0], [70]), bins([1.0, 2.0], [30])])
    (values, edges) = outlines(plot_gradient_histogram(frame))[0]
    assert values[30] == pytest.approx(0.7) and edges[30] < 0 < edges[31]


def test_runs_share_their_bins_and_a_log_axis_shows_the_tails() -> None:
    narrow = bins([-0.1, 0.1], [100_000], "vanilla")
    wide = pd.concat([bins([-10.0, 10.0], [99_000], "s"), bins([10.0, 11.0], [1_000], "s")])
    ax = plot_gradient_histogram(pd.concat([narrow, wide]))
    (one, edges), (other, same_edges) = outlines(ax)
    assert edges.tolist() == same_edges.tolist() and edges[-1] == 11
    assert ax.get_yscale() == "log" and ax.get_xscale() == "linear"
    assert legend_labels(ax) == ["vanilla", "s"]
    assert np.nanmax(one) == 1  # the peak
    low, high = ax.get_ylim()
    assert low < np.nanmin(other) and high > 1  # and the tail, a thousandth of it, are both seen


def test_a_few_outliers_do_not_squeeze_the_rest() -> None:
    frame = pd.concat([bins([-1.0, 1.0], [9_995]), bins([500.0, 600.0], [5])])
    assert plot_gradient_histogram(frame).get_xlim() == (-1, 1)
    assert plot_gradient_histogram(frame, limit=600).get_xlim() == (-600, 600)


def test_rows_of_one_run_are_counted_together() -> None:
    frame = bins([-1.0, 0.0, 1.0], [40, 60])
    twice = pd.concat([frame.assign(seed=0), frame.assign(seed=1)])
    one, two = (outlines(plot_gradient_histogram(f))[0][0] for f in (frame, twice))
    np.testing.assert_allclose(one, two)


def test_measured_gradients_are_drawn() -> None:
    torch.manual_seed(0)
    batches = [(images(6), labels(6)) for _ in range(3)]
    frames = [
        gradient_histogram(Net(), nn.CrossEntropyLoss(), batches, run=name) for name in ("a", "b")
    ]
    figure, (left, right) = plt.subplots(1, 2)
    ax = plot_gradient_histogram(pd.concat(frames), ax=right)
    assert ax is right and not left.has_data()
    assert legend_labels(ax) == ["a", "b"]
    for values, _ in outlines(ax):
        assert np.nansum(values) == pytest.approx(1, abs=0.05)
    by_layer = [
        gradient_histogram(Net(), nn.CrossEntropyLoss(), batches, layer=name)
        for name in ("layer1.0", "fc")
    ]
    ax = plot_gradient_histogram(pd.concat(by_layer), hue="layer", legend=False)
    assert ax.get_legend() is None and len(outlines(ax)) == 2


@pytest.mark.parametrize("format", ["png", "pdf"])
def test_saves_without_a_warning_and_leaves_its_frame_alone(format, tmp_path) -> None:
    frame = pd.concat([bins([-1e-9, 1e-9, 2e-3], [5, 1]), bins([0.0, 0.0], [3], "other")])
    before = frame.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_gradient_histogram(frame).figure.savefig(tmp_path / f"figure.{format}")
    pd.testing.assert_frame_equal(frame, before)
    assert (tmp_path / f"figure.{format}").stat().st_size > 1000


def test_refuses_what_cannot_be_drawn() -> None:
    frame = bins([-1.0, 1.0], [3])
    with pytest.raises(TypeError, match="must be a pandas DataFrame"):
        plot_gradient_histogram([1, 2])
    with pytest.raises(ValueError, match="no column 'count'.*gradient_histogram"):
        plot_gradient_histogram(frame.drop(columns="count"))
    with pytest.raises(ValueError, match=r"several layers \('conv1', 'conv2'\)"):
        plot_gradient_histogram(pd.concat([frame, frame.assign(layer="conv2")]))
    with refused(ValueError, "all gradients in the frame are exactly 0: there is nothing to draw."):
        plot_gradient_histogram(bins([0.0, 0.0], [7]))
    for limit, error in ((0, ValueError), (float("nan"), ValueError), ("1", TypeError)):
        with pytest.raises(error, match="limit must be"):
            plot_gradient_histogram(frame, limit=limit)
    assert plt.get_fignums() == []
