import numpy as np
import pandas as pd

from sj_shortcut import plot_gradient_coherence
from tests.plots.tools import flow, labels
from tests.refusals import refused


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
    hint = "Coherence takes several batches: gradient_flow(model, loss_fn, [batch, ...])."
    with refused(
        ValueError,
        "the frame has no column 'coherence'; its columns are: layer, depth, run. " + hint,
    ):
        plot_gradient_coherence(flow()[["layer", "depth", "run"]])
    with refused(
        ValueError,
        "no row of the frame has a number in 'coherence', which is missing where fewer than two "
        "batches gave a gradient. " + hint,
    ):
        plot_gradient_coherence(flow(coherence=np.nan))
