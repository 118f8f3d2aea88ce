"""Fan-outs, against networks of which they can be counted on paper."""

import copy

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from sj_shortcut import is_spiking_neuron, spike_report
from sj_shortcut.price.shares import fan_out_shares
from tests.nets.small import Net, images
from tests.nets.zoo import ZOO
from tests.spikes.tools import specimen


def shares_of(model: nn.Module, *args: Tensor) -> dict[str, float] | None:
    neurons = {n: m for n, m in model.named_modules() if is_spiking_neuron(m)}
    return fan_out_shares(model, args, {}, neurons)


@pytest.mark.parametrize("mode", ["m", "s"])
def test_linear_layers(mode: str) -> None:
    x = images() if mode == "m" else images()[0]
    driven = [16 * 12, 12 * 6, 6 * 4]
    assert list(shares_of(Net(mode), x).values()) == pytest.approx(
        [d / sum(driven) for d in driven]
    )


class Ones(nn.Module):
    """A layer that always fires."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)


@pytest.mark.parametrize("name", ["conv_net", "features", "sound", "seq_to_ann", "multi_step"])
def test_shares_are_those_of_the_operations_if_all_fired(name: str) -> None:
    model, (x, y) = specimen(name)
    names = [n for n, m in model.named_modules() if is_spiking_neuron(m)]
    found = shares_of(model, x)
    saturated = copy.deepcopy(model)
    for each in names:
        parent, _, child = each.rpartition(".")
        setattr(saturated.get_submodule(parent), child, Ones())
    frame = spike_report(saturated, (x, y), neuron_types=(Ones,), forward=lambda model, x: model(x))
    weights = frame[frame.kind == "weights"]
    driven = weights.synops.where(weights.synops > 0, weights.macs).tolist()[1:]
    pooled = sum(each == driven[-1] for each in driven) and name in ("conv_net", "sound")
    if pooled or name in ("seq_to_ann", "multi_step"):  # averages are no spikes: not compared
        assert list(found) == names and sum(found.values()) == pytest.approx(1)
    else:
        assert list(found.values()) == pytest.approx([d / sum(driven) for d in driven])


def test_padding_stride_groups_pooling_and_a_side_branch() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.spikes = nn.Conv2d(1, 4, 1), neuron.IFNode()
            self.pool = nn.MaxPool2d(2)
            self.padded = nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False)
            self.strided = nn.Conv2d(4, 6, 2, stride=2)
            self.again = neuron.IFNode()
            self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            spikes = self.spikes(self.first(x))
            sides = self.padded(self.pool(spikes)) + self.strided(spikes)
            return self.up(self.again(sides)).mean((-1, -2))

    found = shares_of(Branches(), torch.rand(3, 1, 4, 4))
    # 2 x 2 maps after pooling: each of 4 places meets 4 of 9 weights, in 3 channels.
    first = 4 * (4 * 4) * 3 + 4 * 16 * 6
    again = 6 * 4 * 5 * 4
    assert list(found.values()) == pytest.approx([first / (first + again), again / (first + again)])


def test_same_padding_and_other_modes_of_it() -> None:
    for options in ({"padding": "same"}, {"padding": 1, "padding_mode": "circular"}):
        model = nn.Sequential(
            nn.Conv1d(1, 2, 1), neuron.IFNode(), nn.Conv1d(2, 3, 3, **options), neuron.IFNode(),
            nn.Conv1d(3, 1, 1),
        )  # fmt: skip
        found = shares_of(model, torch.rand(2, 1, 5))
        driven = [2 * 3 * (3 * 5 - 2), 3 * 5]
        assert list(found.values()) == pytest.approx([d / sum(driven) for d in driven])


def test_a_layer_that_drives_nothing_is_free() -> None:
    model = nn.Sequential(layer.Linear(8, 4), neuron.IFNode(), layer.Linear(4, 3), neuron.IFNode())
    assert shares_of(model, torch.rand(2, 8)) == {"1": 1.0, "3": 0.0}


def test_where_they_cannot_be_seen() -> None:
    model = nn.Sequential(nn.Linear(8, 4), neuron.IFNode())
    assert shares_of(model, torch.rand(2, 8)) is None  # nothing is driven
    assert shares_of(model, torch.rand(2, 3)) is None  # it does not run
    assert fan_out_shares(model, (torch.rand(2, 8),), {}, {}) is None


@pytest.mark.parametrize("name", [n for n in ZOO if ZOO[n].here and "m" in ZOO[n].modes])
def test_every_network_has_shares_and_stays_as_it_was(name: str) -> None:
    model, (x, _) = specimen(name)
    before = copy.deepcopy(model.state_dict())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    found = shares_of(model, x)
    assert sum(found.values()) == pytest.approx(1) and min(found.values()) >= 0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    now = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert now == hooks
    functional.reset_net(model)
