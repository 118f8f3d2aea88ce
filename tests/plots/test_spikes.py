import matplotlib.pyplot as plt
import pandas as pd
import pytest

from sj_shortcut import plot_spikes, spike_report
from tests.nets.small import Net, images, labels
from tests.plots.tools import drawn, names_along
from tests.plots.tools import labels as legend
from tests.refusals import refused


def reports() -> pd.DataFrame:
    model, batch = Net(), (images(), labels())
    return pd.concat([spike_report(model, batch, run=run) for run in ("vanilla", "shortcuts")])


def test_what_multiplies_and_what_fires_are_drawn_apart() -> None:
    frame = reports()
    ax = plot_spikes(frame)
    assert len(drawn(ax)) == 2 and ax.get_ylabel() == "SynOps a sample" and ax.get_ylim()[0] == 0
    assert names_along(ax) == ["layer1.0", "layer2.0", "layer3.0", "fc"]
    vanilla = frame[frame.run == "vanilla"]
    assert drawn(ax)[0][1] == vanilla.synops.dropna().tolist()
    assert names_along(plot_spikes(frame, y="firing_rate")) == ["layer1.1", "layer2.1", "layer3.1"]


def test_the_legend_has_sums_of_what_adds_up() -> None:
    frame = reports()
    total = frame[frame.run == "vanilla"].spikes.sum()
    assert legend(plot_spikes(frame, y="spikes"))[0] == f"vanilla ({total:.3g} in all)"
    assert legend(plot_spikes(frame, y="silent")) == ["vanilla", "shortcuts"]
    assert not legend(plot_spikes(frame[frame.run == "vanilla"].drop(columns="run")))


def test_seeds_become_a_band_and_their_sum_a_mean() -> None:
    frame = reports().assign(run="both")
    ax = plot_spikes(frame, y="spikes")
    assert len(drawn(ax)) == 1 and len(ax.collections) == 1
    assert legend(ax) == [f"both ({frame.spikes.sum() / 2:.3g} in all)"]


def test_it_draws_into_the_given_axes_and_leaves_its_frame_alone() -> None:
    figure, (left, right) = plt.subplots(1, 2)
    frame = reports()
    before = frame.copy()
    assert plot_spikes(frame, ax=right) is right and not left.has_data()
    pd.testing.assert_frame_equal(frame, before)


def test_what_is_refused() -> None:
    frame = reports()
    with pytest.raises(ValueError, match="y must be one of 'spikes', .*, not 'loss'"):
        plot_spikes(frame, y="loss")
    with pytest.raises(ValueError, match=r"no column 'energy_pj'.*spike_report\(..., energy=True"):
        plot_spikes(frame, y="energy_pj")
    with refused(TypeError, "frame must be a pandas DataFrame, got dict."):
        plot_spikes({})
    with refused(ValueError, "no row of the frame has a number in 'silent', which is missing where "
                 "the layer is none of neurons, or its axes could not be seen."):  # fmt: skip
        plot_spikes(frame.assign(silent=float("nan")), y="silent")


def test_large_sums_have_no_exponent() -> None:
    frame = reports().assign(synops=195291.125)
    frame = frame[frame.run == "vanilla"]
    assert legend(plot_spikes(frame)) == ["vanilla (781,000 in all)"]
