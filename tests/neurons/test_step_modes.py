import inspect

import pytest
from spikingjelly.activation_based import base, functional, layer, neuron
from torch import nn

from sj_shortcut.neurons.step_modes import (
    FOLDING,
    LOOPING,
    TIME_LAST,
    layer_classes,
    step_mode_of,
    step_mode_owner,
    time_loop,
)
from tests.neurons.nets import Block, second_generation

HAS_TIME_LAST = hasattr(layer, "TLastSeqToANNContainer")


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


# Containers


def test_the_containers_of_the_installed_generation_are_all_in_one_list():
    names = {
        name
        for name, cls in inspect.getmembers(layer, inspect.isclass)
        if name.endswith("Container") and issubclass(cls, nn.Module)
    }
    listed = [cls.__name__ for cls in (*FOLDING, *LOOPING, *TIME_LAST)]
    assert len(listed) == len(set(listed)) and set(listed) == names


def test_classes_that_are_not_there_are_left_out():
    assert layer_classes("Linear", "NoSuchLayer") == (layer.Linear,)
    assert layer_classes() == ()
    assert bool(TIME_LAST) == HAS_TIME_LAST


# step_mode_owner


def test_a_neuron_and_a_layer_own_their_step_mode():
    assert step_mode_owner(neuron.LIFNode()) == step_mode_owner(layer.Linear(2, 2)) == ""


def test_a_block_follows_its_first_neuron_and_not_its_layers():
    assert step_mode_owner(Block()) == "sn"
    assert step_mode_owner(nn.Sequential(layer.Linear(2, 2), Block(), neuron.IFNode())) == "1.sn"


def test_a_container_comes_before_what_is_in_it():
    inside = nn.Sequential(layer.SeqToANNContainer(nn.ReLU()), neuron.IFNode())
    assert step_mode_owner(inside) == "0"
    assert step_mode_owner(layer.MultiStepContainer(neuron.IFNode())) == ""
    recurrent = layer.ElementWiseRecurrentContainer(neuron.IFNode(), lambda x, y: x + y)
    assert step_mode_owner(nn.Sequential(nn.Sequential(recurrent))) == "0.0"


def test_neurons_without_a_step_mode_own_none():
    assert step_mode_owner(nn.Sequential(OwnNeuron())) is None
    assert step_mode_owner(nn.Sequential(OwnNeuron()), (OwnNeuron,)) is None
    assert step_mode_owner(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) is None
    assert step_mode_owner(nn.Sequential(layer.Linear(2, 2))) is None


def test_neurons_of_the_users_own_may_have_one():
    model = nn.Sequential(layer.Linear(2, 2), Alike("m"))
    assert step_mode_owner(model) is None
    assert step_mode_owner(model, (Alike,)) == "1"


# time_loop


def test_the_outermost_container_is_the_loop():
    model = nn.Sequential(
        neuron.IFNode(),
        layer.MultiStepContainer(layer.MultiStepContainer(neuron.IFNode())),
        layer.SeqToANNContainer(nn.Sequential(nn.ReLU())),
    )
    assert time_loop(model, "0") is None
    assert time_loop(model, "1") is None
    assert time_loop(model, "1.0") == time_loop(model, "1.0.0") == "1"
    assert time_loop(model, "2.0.0") is None


def test_the_model_may_be_the_loop_itself():
    assert time_loop(layer.MultiStepContainer(neuron.IFNode()), "0") == ""


def test_recurrent_containers_loop():
    for container in (
        layer.ElementWiseRecurrentContainer(neuron.IFNode(), lambda x, y: x + y),
        layer.LinearRecurrentContainer(neuron.IFNode(), 2, 2),
    ):
        assert time_loop(nn.Sequential(container), "0.sub_module") == "0"


@pytest.mark.parametrize("stateful", [True, False])
def test_a_container_of_either_kind_loops_if_it_is_stateful(stateful):
    mode = ["m"] if HAS_TIME_LAST else []  # 2.0.0 takes the step mode before the modules
    container = layer.StepModeContainer(stateful, *mode, neuron.IFNode())
    assert time_loop(nn.Sequential(container), "0.0") == ("0" if stateful else None)
