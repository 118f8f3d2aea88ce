"""How a spiking layer takes its input, where its class alone tells."""

import pytest
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from sj_shortcut.neurons.calls import known_step_mode
from tests.neurons.nets import Readout


class Folding(neuron.LIFNode):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unflatten(0, (2, -1))).flatten(0, 1)


class BelowFolding(Folding):
    pass


class Alike(nn.Module):
    step_mode = "m"


@pytest.mark.parametrize("mode", ["s", "m"])
def test_spikingjellys_own_forward_tells(mode):
    assert known_step_mode(neuron.LIFNode(step_mode=mode)) == mode
    assert known_step_mode(neuron.ParametricLIFNode(step_mode=mode)) == mode
    assert known_step_mode(Readout(step_mode=mode)) == mode  # inherits its forward


@pytest.mark.parametrize("make", [Folding, BelowFolding])
def test_a_forward_of_the_users_own_may_do_anything(make):
    assert known_step_mode(make(step_mode="m")) is None


def test_so_may_one_that_was_put_on_an_object():
    lif = neuron.LIFNode(step_mode="m")
    lif.forward = lambda x: x
    assert known_step_mode(lif) is None


@pytest.mark.parametrize("module", [Alike(), nn.Linear(2, 2), nn.Identity()])
def test_other_classes_tell_nothing(module):
    assert known_step_mode(module) is None
