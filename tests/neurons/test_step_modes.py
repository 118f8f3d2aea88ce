import pytest
from spikingjelly.activation_based import base, functional, layer, neuron
from torch import nn

from sj_shortcut.neurons.step_modes import has_step_mode, set_step_mode, step_mode_of
from tests.neurons.nets import Block, second_generation


class OwnNeuron(nn.Module):
    """A spiking neuron that knows nothing of SpikingJelly."""


class Alike(nn.Module):
    """Has the attribute, but is none of SpikingJelly's."""

    def __init__(self, step_mode: object) -> None:
        super().__init__()
        self.step_mode = step_mode


# step_mode_of


@pytest.mark.parametrize("mode", ["s", "m"])
def test_modules_with_both_modes_tell_theirs(mode):
    modules = [neuron.LIFNode(), layer.Linear(2, 2), layer.BatchNorm2d(2), layer.Dropout()]
    for module in modules:
        functional.set_step_mode(module, mode)
        assert step_mode_of(module) == mode


def test_what_knows_multi_step_mode_only_needs_no_attribute():
    container = layer.SeqToANNContainer(nn.ReLU())
    assert not hasattr(container, "step_mode") and step_mode_of(container) == "m"
    assert step_mode_of(layer.MultiStepContainer(nn.ReLU())) == "m"


@second_generation
def test_neurons_that_know_multi_step_mode_only():
    assert not hasattr(neuron.PSN(T=4), "step_mode")
    assert step_mode_of(neuron.PSN(T=4)) == "m"


def test_what_knows_single_step_mode_only():
    kind = getattr(base, "SingleStepModule", None) or base.SingleModule

    class Online(nn.Module, kind):
        pass

    assert step_mode_of(Online()) == "s"


@pytest.mark.parametrize("module", [nn.Linear(2, 2), nn.Sequential(), OwnNeuron(), Block()])
def test_what_has_no_step_mode_is_unknown(module):
    assert step_mode_of(module) is None


def test_an_attribute_of_the_name_counts_if_it_is_a_step_mode():
    assert step_mode_of(Alike("s")) == "s" and step_mode_of(Alike("m")) == "m"
    assert step_mode_of(Alike("training")) is None and step_mode_of(Alike(nn.ReLU())) is None


# Heads


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), layer.Linear(2, 2), neuron.IFNode())


def test_a_module_has_a_step_mode_if_any_layer_in_it_has():
    assert has_step_mode(Head()) and has_step_mode(layer.Linear(2, 2))
    assert not has_step_mode(nn.Sequential(nn.Linear(2, 2), OwnNeuron()))
    assert not has_step_mode(Alike("s"))  # functional.set_step_mode passes it over


@pytest.mark.parametrize("mode", ["s", "m"])
def test_the_step_mode_of_every_layer_is_set(mode):
    head = Head()
    set_step_mode(head, mode)
    assert [step_mode_of(part) for part in head.net] == [None, mode, mode]
