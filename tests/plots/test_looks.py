import pandas as pd
import pytest

from sj_shortcut import plot_gradient_flow
from sj_shortcut.plots.looks import COLOURS, GREY
from tests.plots.tools import drawn, flow, labels


def test_flow_tells_lines_apart_without_colour() -> None:
    frame = pd.concat([flow(run=name) for name in ("vanilla", *"abcdefg")])
    looks = [
        (line.get_linestyle(), line.get_marker(), line.get_color())
        for line in plot_gradient_flow(frame).lines
    ]
    assert len({look[:2] for look in looks}) == 8
    assert len({look[2] for look in looks}) == 8


@pytest.mark.parametrize(
    "runs",
    [
        ["vanilla", "shortcuts"],
        ["shortcuts", "vanilla, lr 0.1"],
        ["shortcuts", "vanilla (9 in all)"],
    ],
)
def test_vanilla_is_grey_and_what_is_compared_with_it_blue_in_whichever_order(runs) -> None:
    ax = plot_gradient_flow(pd.concat([flow(run=run) for run in runs]))
    colours = dict(zip(labels(ax), [line.get_color() for line in ax.lines[:2]], strict=True))
    assert colours == {run: GREY if "vanilla" in run else COLOURS[0] for run in runs}


def test_several_called_vanilla_are_told_apart() -> None:
    runs = ["vanilla, 18 layers", "vanilla, 34 layers", "shortcuts"]
    ax = plot_gradient_flow(pd.concat([flow(run=run) for run in runs]))
    assert len({line.get_color() for line in ax.lines[:3]}) == 3


def test_flow_over_epochs_has_a_scale_of_colours_and_few_legend_entries() -> None:
    frame = pd.concat([flow(epoch=epoch) for epoch in (3, 0, 2, 1, 10, 20, 30, 40)])
    ax = plot_gradient_flow(frame, hue="epoch")
    assert len(drawn(ax)) == 8
    assert labels(ax)[0] == "0" and labels(ax)[-1] == "40" and len(labels(ax)) == 5
    assert ax.get_legend().get_title().get_text() == "epoch"
