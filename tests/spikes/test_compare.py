import numpy as np
import pandas as pd
import pytest

from sj_shortcut import compare_spikes, spike_report
from sj_shortcut.spikes.compare import TOTAL
from tests.nets.small import Net, images, labels
from tests.refusals import refused


def report(seed_of_input: int = 0, **options: object) -> pd.DataFrame:
    import torch

    torch.manual_seed(0)
    model = Net()
    torch.manual_seed(seed_of_input)
    return spike_report(model, (images(), labels()), **options)


def test_ratios_and_totals() -> None:
    before, after = report(0), report(1)
    table = compare_spikes(before, after)
    assert table.layer.tolist() == [*before.layer, TOTAL]
    for name in ("spikes", "synops", "macs"):
        assert table[f"{name}_before"].iloc[-1] == pytest.approx(before[name].sum())
        assert np.array_equal(table[f"{name}_after"][:-1], after[name], equal_nan=True)
    assert table.spikes_ratio.iloc[-1] == pytest.approx(after.spikes.sum() / before.spikes.sum())
    places = (before.neurons * before.steps).sum()
    assert table.firing_rate_before.iloc[-1] == pytest.approx(before.spikes.sum() / places)
    assert np.isnan(table.silent_before.iloc[-1])
    columns = list(table.columns)
    assert columns[columns.index("synops_before") :][:3] == [
        "synops_before", "synops_after", "synops_ratio"
    ]  # fmt: skip
    assert "energy_pj_before" not in table


def test_energy_where_both_have_it() -> None:
    with_energy = report(0, energy=True)
    assert "energy_pj_ratio" not in compare_spikes(with_energy, report(1))
    assert compare_spikes(with_energy, with_energy).energy_pj_ratio.iloc[-1] == 1


def test_layers_of_one_side_stay() -> None:
    before, after = report(0), report(1)
    table = compare_spikes(before[before.layer != "fc"], after).set_index("layer")
    assert np.isnan(table.loc["fc", "synops_before"]) and table.loc["fc", "synops_after"] >= 0
    assert table.loc["fc", "kind"] == "weights"


def test_nothing_before_has_no_ratio() -> None:
    before = report(0)
    silent = before.assign(spikes=0.0, synops=0.0)
    assert compare_spikes(silent, before).spikes_ratio.isna().all()


def test_what_is_refused() -> None:
    frame = report()
    with refused(TypeError, "after must be a frame of spike_report, got dict."):
        compare_spikes(frame, {})
    both = pd.concat([frame.assign(seed=0), frame.assign(seed=1)])
    with pytest.raises(
        ValueError, match=r"several runs. Choose one of them by its tags \('seed'\)"
    ):
        compare_spikes(both, frame)
    with refused(ValueError, "before and after have no layer in common: compare reports of one "
                 "network."):  # fmt: skip
        compare_spikes(frame, frame.assign(layer=frame.layer + "_"))
