"""spike_report: what it counts, and that it leaves no trace."""

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn

from sj_shortcut import (
    ShortcutLoss,
    ShortcutWarning,
    shortcut_branches,
    spike_report,
    wrap_with_shortcuts,
)
from sj_shortcut.neurons import has_op_counter
from tests.gradients.tools import hooks_on
from tests.nets.small import Net, T, images, labels
from tests.nets.written import WRITTEN
from tests.nets.written import N as SAMPLES
from tests.refusals import refused
from tests.spikes.tools import ZOO, specimen, spikes_by_hand, totals

quiet = pytest.mark.filterwarnings("ignore::sj_shortcut.ShortcutWarning")


class Halves(nn.Module):
    """Fires where its input is above 1/2; remembers nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > 0.5).to(x)


def test_numbers_of_a_network_counted_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), neuron.IFNode(), nn.Conv2d(2, 3, 2))
    functional.set_step_mode(model, "s")
    model[0].weight.data.fill_(1.0)
    x = torch.zeros(2, 1, 3, 3)
    x[0, 0, 0, 0] = 1.0  # meets one place of the first layer, in both channels: one spike each
    frame = spike_report(model, (x[None], torch.zeros(2))).set_index("layer")
    assert frame.samples.eq(2).all() and frame.depth.tolist() == [1, 2, 3]
    assert frame.kind.tolist() == ["weights", "neurons", "weights"]
    assert frame.loc["0", "synops"] == 2 / 2 and frame.loc["0", "macs"] == 0
    fired = frame.loc["1"]
    assert (fired.neurons, fired.steps, fired.spikes) == (8, 1, 1.0)
    assert (fired.firing_rate, fired.silent, fired.saturated) == (1 / 8, 6 / 8, 0.0)
    assert frame.loc["2", "synops"] == 2 * 3 / 2
    saturated = spike_report(model, (x[None, :1], torch.zeros(1))).set_index("layer").loc["1"]
    assert (saturated.silent, saturated.saturated) == (6 / 8, 2 / 8)


@quiet
@pytest.mark.parametrize("mode", ["m", "s"])
@pytest.mark.parametrize("name", ZOO)
def test_any_network(name: str, mode: str) -> None:
    if not ZOO[name].here or mode not in ZOO[name].modes:
        pytest.skip("not here, or not in this step mode")
    model, (x, y) = specimen(name, mode)
    each_step = None
    if mode == "s":  # of two samples and two time steps it cannot be told which is which
        each_step = lambda model, x: [model(step) for step in x]  # noqa: E731
    frame = spike_report(model, (x, y), forward=each_step)
    neurons = frame[frame.kind == "neurons"]
    by_hand = spikes_by_hand(model, lambda: ZOO[name].outputs(model, x, mode), len(y))
    assert dict(zip(neurons.layer, neurons.spikes, strict=True)) == pytest.approx(by_hand)
    assert neurons[["neurons", "silent", "saturated"]].notna().all().all()
    fired = neurons.firing_rate * neurons.neurons * neurons.steps
    assert np.allclose(fired, neurons.spikes)
    assert (frame.synops[frame.kind == "weights"] >= 0).all() and totals(frame)["macs"] > 0


@quiet
@pytest.mark.skipif(not has_op_counter(), reason="needs SpikingJelly 2.0.0")
@pytest.mark.parametrize("name", ["conv_net", "features", "spikformer", "nested", "seq_to_ann"])
def test_the_sum_is_what_spikingjelly_counts(name: str) -> None:
    from spikingjelly.activation_based import op_counter

    model, (x, y) = specimen(name)
    frame = spike_report(model, (x, y))
    synops = op_counter.SynOpCounter()
    macs = op_counter.MACCounter(extra_ignore_modules=[nn.modules.batchnorm._BatchNorm])
    model.eval()
    functional.reset_net(model)
    with torch.no_grad(), op_counter.DispatchCounterMode([synops, macs]):
        model(x)
    assert round(totals(frame)["synops"] * len(y)) == synops.get_total() > 0
    assert round(totals(frame)["macs"] * len(y)) == macs.get_total() > 0


@quiet
def test_without_an_op_counter_the_frame_is_the_same(monkeypatch) -> None:
    model, batch = specimen("conv_net")
    before = spike_report(model, batch)
    monkeypatch.setattr("sj_shortcut.neurons.operations.op_counter", None)
    pd.testing.assert_frame_equal(spike_report(model, batch), before)


@quiet
@pytest.mark.parametrize("name", ["conv_net", "nested", "sew_resnet"])
def test_both_step_modes_count_the_same(name: str) -> None:
    name = next(known for known in ZOO if known.startswith(name))
    model, batch = specimen(name)
    whole = spike_report(model, batch)
    functional.set_step_mode(model, "s")
    pd.testing.assert_frame_equal(spike_report(model, batch), whole)


class Looping(Net):
    """Its loop over time is inside."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([super(Looping, self).forward(step) for step in x]).mean(0)


def test_a_loop_inside_forward() -> None:
    model, batch = Net(), (images(), labels())
    whole = spike_report(model, batch)
    functional.set_step_mode(model, "s")
    model.__class__ = Looping
    pd.testing.assert_frame_equal(spike_report(model, batch), whole)
    asked = spike_report(model, batch, forward=lambda model, x: model(x))
    pd.testing.assert_frame_equal(asked, whole)


@quiet
@pytest.mark.parametrize("name", WRITTEN)
def test_networks_as_people_write_them(name: str) -> None:
    found = WRITTEN[name]
    torch.manual_seed(0)
    model, inputs = found.build(), found.inputs()
    frame = spike_report(
        model,
        [(inputs, torch.zeros(SAMPLES))],
        neuron_types=found.neurons,
        forward=lambda model, x: found.run(model, *x),
    )
    assert (frame.kind == "neurons").any() and frame.spikes.notna().any()


@quiet
def test_axes_that_step_modes_do_not_tell_are_seen() -> None:
    found = WRITTEN["time last"]
    torch.manual_seed(0)
    model, (x,) = found.build(), found.inputs()
    frame = spike_report(model, (x, torch.zeros(len(x))), neuron_types=found.neurons)
    neurons = frame[frame.kind == "neurons"]
    assert neurons.neurons.notna().all() and (neurons.steps == x.shape[-1]).all()


def test_sums_of_spikes_are_no_spikes_even_where_they_are_0_or_1_for_once() -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x if x.sum() > 1 else x

    model = nn.Sequential(nn.Linear(2, 2), neuron.IFNode(), Doubled(), nn.Linear(2, 3))
    model[0].weight.data, model[0].bias.data = torch.eye(2), torch.zeros(2)
    x = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])  # one spike, then two
    frame = spike_report(model, (x, torch.zeros(1))).set_index("layer")
    assert (frame.loc["3", "synops"], frame.loc["3", "macs"]) == (0, 2 * 6)


def test_products_outside_of_layers_have_rows() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.transpose(-1, -2) @ x

    model = nn.Sequential(nn.Linear(4, 4), neuron.IFNode(), Attention(), nn.Linear(4, 2))
    model[0].weight.data, model[0].bias.data = torch.eye(4), torch.zeros(4)
    frame = spike_report(model, (torch.ones(1, 2, 5, 4), torch.zeros(2))).set_index("layer")
    row = frame.loc["2"]
    assert (row.kind, row.module, row.depth) == ("other", "Attention", 3)
    # Pairs of spikes that meet, then sums of them added up where there are spikes.
    assert (row.synops, row.macs) == (5 * 5 * 4 + 5 * 4 * 5, 0)


def test_several_batches_are_one_measurement() -> None:
    model, x, y = Net(), images(6), labels(6)
    whole = spike_report(model, (x, y))
    parts = [(x[:, :2], y[:2]), (x[:, 2:], y[2:])]
    pd.testing.assert_frame_equal(spike_report(model, iter(parts)), whole)
    tagged = spike_report(model, parts, run="vanilla", seed=3)
    assert list(tagged.columns[:3]) == ["run", "seed", "layer"] and (tagged.seed == 3).all()


def test_heads_are_off_and_not_in_the_frame() -> None:
    torch.manual_seed(0)
    model, batch = Net(), (images(), labels())
    plain = spike_report(model, batch)
    wrap_with_shortcuts(model)
    pd.testing.assert_frame_equal(spike_report(model, batch), plain)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    output = model(batch[0])
    spike_report(model, batch)  # between a forward and its loss
    criterion(output.mean(0), batch[1]).backward()
    assert all(p.grad is not None for p in shortcut_branches(model)["layer1.1"].parameters())
    assert set(criterion.parts) == {"total", "main", "layer1.1", "layer2.1"}


@quiet
@pytest.mark.parametrize("fails", [False, True])
def test_it_leaves_no_trace(fails: bool) -> None:
    model, (x, y) = specimen("nested")
    model(x)
    state, hooks = copy.deepcopy(model.state_dict()), hooks_on(model)
    memories = [m.v.clone() for m in model.modules() if isinstance(m, neuron.LIFNode)]
    model[0].eval()
    flags = [m.training for m in model.modules()]
    rng = torch.get_rng_state()
    if fails:
        with pytest.raises(RuntimeError):
            spike_report(model, [(x, y), (x[:, :, :1], y)])
    else:
        spike_report(model, (x, y))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert hooks_on(model) == hooks and [m.training for m in model.modules()] == flags
    now = [m.v for m in model.modules() if isinstance(m, neuron.LIFNode)]
    assert all(torch.equal(a, b) for a, b in zip(now, memories, strict=True))
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(p.grad is None for p in model.parameters())


def test_inference_mode_and_autocast_around_it() -> None:
    model, batch = Net(), (images(), labels())
    plain = spike_report(model, batch)
    with torch.inference_mode():
        pd.testing.assert_frame_equal(spike_report(model, (images(), labels()))[["layer"]],
                                      plain[["layer"]])  # fmt: skip
        assert totals(spike_report(model, batch)) == totals(plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert totals(spike_report(model, batch))["macs"] == totals(plain)["macs"]


def test_energy_comes_with_its_constants(capsys) -> None:
    model, batch = Net(), (images(), labels())
    plain = spike_report(model, batch)
    assert "energy_pj" not in plain and not capsys.readouterr().out
    frame = spike_report(model, batch, energy=True)
    said = capsys.readouterr().out
    for part in (
        "0.9 pJ an accumulate",
        "4.6 pJ a multiply",
        "45 nm",
        "Horowitz",
        "memory traffic",
    ):
        assert part in said
    want = 0.9 * frame.synops + 4.6 * frame.macs
    assert np.allclose(frame.energy_pj, want, equal_nan=True) and frame.energy_pj.sum() > 0
    with refused(TypeError, "energy must be True or False, got 45."):
        spike_report(model, batch, energy=45)


def test_a_silent_network_says_so(capsys) -> None:
    model, batch = Net(), (images(), labels())
    for name in ("layer1", "layer2", "layer3"):
        model.get_submodule(name)[1].v_threshold = 1e9
    with pytest.warns(ShortcutWarning, match="no spiking layer fired .* it is silent"):
        frame = spike_report(model, batch, energy=True)
    assert frame.energy_pj.isna().all() and (frame.spikes.dropna() == 0).all()
    model = Net()
    model.layer3[1].v_threshold = 1e9
    with pytest.warns(ShortcutWarning, match=r"1 of 3 spiking layers did not fire .*'layer3.1'"):
        assert spike_report(model, batch, energy=True).energy_pj.isna().all()
    model = Net()
    model.layer1[1].v_threshold = 1e9  # biases go on below
    with pytest.warns(ShortcutWarning, match="1 of 3"):
        assert spike_report(model, batch, energy=True).energy_pj.notna().any()


def test_an_untrained_network_says_so() -> None:
    found = ZOO["nested"]
    model = found.make("m")
    with pytest.warns(ShortcutWarning, match="batch norms have not seen a batch .* untrained"):
        frame = spike_report(model, (found.sequence(), found.target()), energy=True)
    assert frame.energy_pj.isna().all()
    model(found.sequence())
    functional.reset_net(model)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        spike_report(model, (found.sequence(), found.target()))
    assert not [w for w in told if "untrained" in str(w.message)]


def test_layers_that_did_not_run_come_last() -> None:
    model = Net()
    model.unused = nn.Linear(2, 2)
    frame = spike_report(model, (images(), labels()))
    assert frame.layer.iloc[-1] == "unused" and np.isnan(frame.depth.iloc[-1])
    assert np.isnan(frame.synops.iloc[-1])


def test_labels_need_not_tell_the_number_of_samples() -> None:
    model, x = Net(), images()
    frame = spike_report(model, (x, labels()))
    other = spike_report(model, [(x, None)], forward=lambda model, x: model(x).mean(0))
    pd.testing.assert_frame_equal(other, frame)
    message = (
        "neither the labels y nor the model's output tell how many samples a batch has: pass "
        "batches (x, y) with labels y [N]."
    )
    with refused(ValueError, message):
        spike_report(model, [(x, None)], forward=lambda model, x: None)


def test_what_is_refused() -> None:
    model, batch = Net(), (images(), labels())
    with refused(ValueError, "batches is empty: pass one (x, y), or an iterable of them."):
        spike_report(model, [])
    with refused(ValueError, "the tag 'spikes' has the name of a column that is measured: call it "
                 "another name."):  # fmt: skip
        spike_report(model, batch, spikes=1)
    with refused(TypeError, "model must be a torch.nn.Module, got list."):
        spike_report([1], batch)
    with refused(ValueError, "batch 0 must be a pair (x, y), got Tensor."):
        spike_report(model, [batch[0]])


@quiet
def test_a_model_that_changes_its_input_in_place_leaves_the_batch_as_it_was() -> None:
    model, x = WRITTEN["an input changed in place"].build(), torch.rand(SAMPLES, 3, 12, 12)
    kept, batch = x.clone(), (x, torch.tensor([1, 3]))
    pd.testing.assert_frame_equal(spike_report(model, batch), spike_report(model, batch))
    assert torch.equal(x, kept)


def test_sharded_models_are_refused(monkeypatch) -> None:
    monkeypatch.setattr("sj_shortcut.spikes.report.is_sharded", lambda module: True)
    message = (
        "Net is sharded (FSDP), and a pass without its hooks would not find its weights: count "
        "spikes of a model that is whole, with the saved weights, say."
    )
    with refused(TypeError, message):
        spike_report(Net(), (images(), labels()))


def test_compiled_and_distributed_models_are_measured_inside() -> None:
    model, batch = Net(), (images(), labels())
    pd.testing.assert_frame_equal(
        spike_report(torch.compile(model), batch), spike_report(model, batch)
    )


def test_half_precision() -> None:
    model = Net().to(torch.bfloat16)
    frame = spike_report(model, (images().bfloat16(), labels()))
    assert frame.macs.sum() == T * 8 * 16 and frame.synops.sum() > 0
