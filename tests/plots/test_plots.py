"""Plots: what is drawn where, what is refused, and that nothing outside the Axes is touched."""

import subprocess
import sys
import warnings
from collections.abc import Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import sj_shortcut
from sj_shortcut import (
    ConstantSchedule,
    EvolutionarySchedule,
    ShortcutLoss,
    gradient_flow,
    plot_gradient_coherence,
    plot_gradient_flow,
    plot_gradient_heatmap,
    plot_gradient_sources,
    plot_history,
    plot_schedule,
    wrap_with_shortcuts,
)

LAYER_PLOTS = [
    plot_gradient_flow,
    plot_gradient_coherence,
    plot_gradient_heatmap,
    plot_gradient_sources,
]
PLOTS = [*LAYER_PLOTS, plot_history]


@pytest.fixture(autouse=True)
def figures() -> Iterator[None]:
    settings = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == settings


def flow(layers: int = 5, **columns: object) -> pd.DataFrame:
    """A frame like those of gradient_flow, with norms from 1e-4 up to 1."""
    depth = np.arange(1, layers + 1)
    frame = pd.DataFrame(
        {
            "layer": [f"layer{1 + i // 12}.{i // 2 % 6}.conv{1 + i % 2}" for i in range(layers)],
            "depth": depth,
            "weight_grad_norm": 10.0 ** (4 * (depth - layers) / max(layers - 1, 1)),
            "coherence": depth / layers,
            "coherence_floor": 0.1,
            "run": "vanilla",
            "epoch": 0,
            "source": "main",
            "share": 1.0,
            "loss": 1.0,
            "accuracy": 0.5,
        }
    )
    return frame.assign(**columns)


def drawn(ax: Axes) -> list[tuple[list[float], list[float]]]:
    """The points of each line in data coordinates."""
    return [
        (list(line.get_xdata()), list(line.get_ydata()))
        for line in ax.lines
        if line.get_transform() == ax.transData
    ]


def marked(ax: Axes) -> dict[str, list[float]]:
    """Places marked at the lower edge, by marker."""
    edge = ax.get_xaxis_transform()
    return {
        str(line.get_marker()): list(line.get_xdata())
        for line in ax.lines
        if line.get_transform() == edge
    }


def labels(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def names_along(ax: Axes, axis: str = "x") -> list[str]:
    ax.figure.draw_without_rendering()
    ticks = ax.get_xticklabels() if axis == "x" else ax.get_yticklabels()
    return [tick.get_text() for tick in ticks]


# What holds for every plot.


@pytest.mark.parametrize("plot", PLOTS)
def test_draws_into_the_given_axes_and_returns_it(plot) -> None:
    figure, (left, right) = plt.subplots(1, 2)
    before = plt.get_fignums()
    assert plot(flow(), ax=right) is right
    assert not left.has_data()
    assert plt.get_fignums() == before
    assert plt.gcf() is figure


@pytest.mark.parametrize("plot", PLOTS)
def test_makes_one_figure_of_column_width_where_no_axes_is_given(plot) -> None:
    ax = plot(flow())
    assert plt.get_fignums() == [ax.figure.number]
    assert ax.figure.get_figwidth() == 3.3


@pytest.mark.parametrize("plot", PLOTS)
def test_leaves_its_frame_alone(plot) -> None:
    frame = flow()
    before = frame.copy()
    plot(frame)
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("format", ["png", "pdf"])
def test_saves_without_a_warning(plot, format, tmp_path) -> None:
    frame = flow(50)
    frame.loc[3:5, ["weight_grad_norm", "share"]] = 0.0
    frame.loc[9, ["weight_grad_norm", "share", "coherence"]] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot(frame).figure.savefig(tmp_path / f"figure.{format}")
    assert (tmp_path / f"figure.{format}").stat().st_size > 1000


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


# Gradient norms.


def test_flow_draws_each_run_as_it_is() -> None:
    ax = plot_gradient_flow(pd.concat([flow(3), flow(4, run="shortcuts")]))
    (x1, y1), (x2, y2) = drawn(ax)
    assert x1 == [1, 2, 3] and np.allclose(y1, [1e-4, 1e-2, 1])
    assert x2 == [1, 2, 3, 4] and y2[-1] == 1
    assert ax.get_yscale() == "log"
    assert labels(ax) == ["vanilla", "shortcuts"]


def test_flow_tells_lines_apart_without_colour() -> None:
    frame = pd.concat([flow(run=f"run {i}") for i in range(7)])
    looks = [
        (line.get_linestyle(), line.get_marker(), line.get_color())
        for line in plot_gradient_flow(frame).lines
    ]
    assert len({look[:2] for look in looks}) == 7
    assert len({look[2] for look in looks}) == 7


def test_flow_marks_zeros_and_gaps_at_the_lower_edge_and_says_so() -> None:
    frame = flow(6)
    frame.loc[1, "weight_grad_norm"] = 0.0
    frame.loc[2, "weight_grad_norm"] = np.nan
    frame.loc[3, "weight_grad_norm"] = np.inf
    ax = plot_gradient_flow(frame)
    ((_, y),) = drawn(ax)
    assert np.isnan(y).tolist() == [False, True, True, True, False, False]
    assert marked(ax) == {"v": [2], "x": [3, 4]}
    assert labels(ax) == ["vanilla", "exactly 0", "none or NaN"]
    assert ax.get_ylim()[0] < 1e-4


def test_flow_of_nothing_but_zeros_is_a_figure_too() -> None:
    ax = plot_gradient_flow(flow(weight_grad_norm=0.0))
    ax.figure.draw_without_rendering()
    assert marked(ax) == {"v": [1, 2, 3, 4, 5]}


def test_flow_of_nothing_but_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="no row of the frame has a number in 'weight_grad_norm'"):
        plot_gradient_flow(flow(weight_grad_norm=np.nan))


def test_flow_sums_seeds_up_by_median_and_range() -> None:
    frame = pd.concat([flow(3, weight_grad_norm=norm) for norm in (1.0, 2.0, 9.0)])
    ax = plot_gradient_flow(frame)
    assert drawn(ax) == [([1, 2, 3], [2.0, 2.0, 2.0])]
    (band,) = ax.collections
    box = band.get_paths()[0].get_extents()
    assert (box.y0, box.y1) == (1.0, 9.0)


def test_flow_without_runs_is_one_line_without_legend() -> None:
    ax = plot_gradient_flow(flow().drop(columns="run"))
    assert len(drawn(ax)) == 1 and ax.get_legend() is None


def test_flow_refuses_a_hue_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no column 'method'"):
        plot_gradient_flow(flow(), hue="method")


def test_flow_over_epochs_has_a_scale_of_colours_and_few_legend_entries() -> None:
    frame = pd.concat([flow(epoch=epoch) for epoch in (3, 0, 2, 1, 10, 20, 30, 40)])
    ax = plot_gradient_flow(frame, hue="epoch")
    assert len(drawn(ax)) == 8
    assert labels(ax)[0] == "0" and labels(ax)[-1] == "40" and len(labels(ax)) == 5
    assert ax.get_legend().get_title().get_text() == "epoch"


def test_flow_over_a_number_and_by_layer() -> None:
    frame = pd.concat([flow(2, epoch=epoch) for epoch in (0, 1)])
    ax = plot_gradient_flow(frame, x="epoch", hue="layer")
    assert [x for x, _ in drawn(ax)] == [[0, 1], [0, 1]]
    ax = plot_gradient_flow(frame[frame.epoch == 0], x="layer")
    assert names_along(ax) == ["layer1.0.conv1", "layer1.0.conv2"]


def test_flow_refuses_parts_of_a_gradient_as_if_they_were_runs() -> None:
    frame = pd.concat([flow(), flow(source="sn1")])
    with pytest.raises(ValueError, match="split by source"):
        plot_gradient_flow(frame)
    assert labels(plot_gradient_flow(frame, hue="source")) == ["main", "sn1"]


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


def test_depth_is_a_number_where_runs_name_layers_differently() -> None:
    other = flow().assign(layer=[f"body.{i}" for i in range(5)], run="other")
    assert names_along(plot_gradient_flow(pd.concat([flow(), other]))) == ["1", "2", "3", "4", "5"]


def test_long_names_keep_their_ends() -> None:
    name = "encoder.backbone.stages.3.blocks.17.attention.projection"
    assert names_along(plot_gradient_flow(flow(1, layer=name)))[0].endswith("attention.projection")


# Coherence.


def test_coherence_shades_what_random_directions_reach() -> None:
    ax = plot_gradient_coherence(flow())
    assert [(bar.get_x(), bar.get_y(), bar.get_height()) for bar in ax.patches] == [
        (depth - 0.5, -0.1, 0.2) for depth in range(1, 6)
    ]
    over_epochs = pd.concat([flow(1, epoch=epoch) for epoch in (0, 5, 20)])
    (band,) = plot_gradient_coherence(over_epochs, x="epoch").collections
    box = band.get_paths()[0].get_extents()
    assert (box.x0, box.y0, box.x1, box.y1) == (0, -0.1, 20, 0.1)
    assert labels(ax) == ["vanilla", "random directions"]
    assert ax.get_ylim()[1] > 1
    plain = plot_gradient_coherence(flow().drop(columns="coherence_floor"))
    assert labels(plain) == ["vanilla"]


def test_coherence_needs_several_batches() -> None:
    with pytest.raises(ValueError, match="takes several batches"):
        plot_gradient_coherence(flow().drop(columns="coherence"))
    with pytest.raises(ValueError, match="takes several batches"):
        plot_gradient_coherence(flow(coherence=np.nan))


# Heat maps.


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


# Sources.


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
    with pytest.raises(ValueError, match="by_source=True"):
        plot_gradient_sources(flow().drop(columns="source"))


# Schedules.


def test_schedule_draws_what_training_uses() -> None:
    schedule = EvolutionarySchedule(10)
    ax = plot_schedule(schedule, 10)
    line, points = ax.lines
    assert list(points.get_ydata()) == [schedule(epoch) for epoch in range(10)]
    assert line.get_xdata()[-1] == 10 and line.get_ydata()[-1] == schedule(10)
    assert schedule.last_epoch == 0
    assert ax.get_legend() is None


def test_schedules_by_name() -> None:
    ax = plot_schedule({"a": ConstantSchedule(0.5), "b": lambda epoch: 1.0}, 300)
    assert labels(ax) == ["a", "b"]
    assert ax.get_ylim()[0] <= 0


@pytest.mark.parametrize(
    ("schedule", "epochs", "error", "match"),
    [
        (0.5, 10, TypeError, "must be callable"),
        ({"half": 0.5}, 10, TypeError, "'half' must be callable"),
        ({}, 10, ValueError, "no schedule"),
        (ConstantSchedule(), 0, ValueError, "at least 1"),
        (ConstantSchedule(), 2.5, TypeError, "must be an int"),
    ],
)
def test_schedule_refuses(schedule, epochs, error, match) -> None:
    with pytest.raises(error, match=match):
        plot_schedule(schedule, epochs)
    assert plt.get_fignums() == []


# Histories.


def history(run: str = "vanilla", **columns: object) -> pd.DataFrame:
    return pd.DataFrame(
        {"epoch": [1, 2, 3], "loss": [2.0, 1.0, 0.5], "accuracy": [0.1, 0.5, 0.8], "run": run}
    ).assign(**columns)


def test_history_has_loss_above_accuracy_over_one_axis() -> None:
    ax = plot_history(pd.concat([history(), history("shortcuts")]))
    top, bottom = ax.figure.axes
    assert top is ax
    assert (top.get_ylabel(), bottom.get_ylabel()) == ("loss", "accuracy")
    assert drawn(bottom)[0] == ([1, 2, 3], [0.1, 0.5, 0.8])
    ax.figure.draw_without_rendering()
    assert bottom.get_window_extent().y1 < top.get_window_extent().y0
    assert bottom.get_xlim() == top.get_xlim()
    assert not top.get_xlabel() and bottom.get_xlabel() == "epoch"
    assert labels(top) == ["vanilla", "shortcuts"]


def test_history_divides_the_room_of_a_placed_axes() -> None:
    figure = plt.figure()
    ax = figure.add_axes((0.2, 0.2, 0.6, 0.6))
    plot_history(history(), ax=ax)
    top, bottom = (axes.get_position() for axes in figure.axes)
    assert np.allclose([bottom.y0, top.y1], [0.2, 0.8], atol=0.04)


def test_history_draws_the_columns_there_are() -> None:
    ax = plot_history(history().drop(columns="loss"))
    assert ax.figure.axes == [ax] and ax.get_ylabel() == "accuracy"
    with pytest.raises(ValueError, match="no column 'loss' and 'accuracy'"):
        plot_history(history()[["epoch"]])


def test_history_tells_training_from_test_by_dashes() -> None:
    frame = pd.concat([history(split="train"), history(split="test")])
    ax = plot_history(frame, style="split")
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]
    assert len({line.get_color() for line in ax.lines}) == 1
    assert labels(ax) == ["vanilla", "train", "test"]


# The package.


def test_importing_the_package_does_not_import_matplotlib() -> None:
    script = "import sys, sj_shortcut; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_plots_read_frames_without_torch() -> None:
    assert "torch" not in vars(sys.modules["sj_shortcut.plots.lines"])


def test_plots_are_exported() -> None:
    for plot in (*PLOTS, plot_schedule):
        assert getattr(sj_shortcut, plot.__name__) is plot
        assert plot.__name__ in sj_shortcut.__all__
    with pytest.raises(AttributeError, match="no attribute 'plot_nothing'"):
        _ = sj_shortcut.plot_nothing


# Frames as they are measured.


def test_measured_frames_are_drawn() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(part for _ in range(4) for part in (layer.Linear(8, 8), neuron.LIFNode())),
        layer.Linear(8, 3),
    )
    functional.set_step_mode(model, "m")
    batches = [(2 * torch.rand(4, 6, 8), torch.arange(6) % 3) for _ in range(3)]
    vanilla = gradient_flow(model, nn.CrossEntropyLoss(), batches, run="vanilla")
    criterion = ShortcutLoss(wrap_with_shortcuts(model, at="all"), nn.CrossEntropyLoss())
    shortcuts = gradient_flow(model, criterion, batches, run="shortcuts")
    both = pd.concat([vanilla, shortcuts])
    assert len(drawn(plot_gradient_flow(both))) == 2
    assert labels(plot_gradient_coherence(both))[:2] == ["vanilla", "shortcuts"]
    parts = gradient_flow(model, criterion, batches, by_source=True)
    assert labels(plot_gradient_sources(parts))[:4] == ["main loss", "1", "3", "5"]
    epochs = pd.concat([shortcuts.assign(epoch=epoch) for epoch in (0, 1)])
    for column in ("weight_grad_norm", "firing_rate", "snr", "alive"):
        plot_gradient_heatmap(epochs, column=column).figure.draw_without_rendering()
