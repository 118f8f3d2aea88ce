"""What holds for every plot."""

import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_shortcut import (
    ShortcutLoss,
    gradient_flow,
    plot_gradient_coherence,
    plot_gradient_flow,
    plot_gradient_heatmap,
    plot_gradient_sources,
    wrap_with_shortcuts,
)
from tests.plots.tools import PLOTS, drawn, flow, labels


@pytest.mark.parametrize("plot", PLOTS)
def test_draws_into_the_given_axes_and_returns_it(plot) -> None:
    figure, (left, right) = plt.subplots(1, 2)
    before = plt.get_fignums()
    assert plot(flow(), ax=right) is right
    assert not left.has_data()
    assert plt.get_fignums() == before
    assert plt.gcf() is figure


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


def test_plots_read_frames_without_torch() -> None:
    modules = [m for name, m in sys.modules.items() if name.startswith("sj_shortcut.plots.")]
    assert {"sj_shortcut.plots.flow", "sj_shortcut.plots.lines"} <= {m.__name__ for m in modules}
    assert not [module.__name__ for module in modules if "torch" in vars(module)]
