"""Branches are like the parts of the model that they sit on."""

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn

from sj_shortcut.shortcuts.likeness import Likeness
from tests.nets.small import Net


def like(model: nn.Module, name: str) -> nn.Linear:
    branch = nn.Linear(2, 2)
    Likeness(model).apply(branch, name)
    return branch


def test_the_dtype_is_that_of_the_layer_before():
    model = Net()
    model.layer2.double()
    assert like(model, "layer1.1").weight.dtype == torch.float32
    assert like(model, "layer2.1").weight.dtype == torch.float64
    assert like(model, "layer2").weight.dtype == torch.float64
    assert like(model, "layer3.1").weight.dtype == torch.float32


def test_what_comes_before_the_first_layer_is_like_the_first():
    model = nn.Sequential(neuron.LIFNode(), nn.Linear(2, 2).double(), nn.Linear(2, 2))
    assert like(model, "0").weight.dtype == torch.float64
    assert like(nn.Sequential(neuron.LIFNode()), "0").weight.dtype == torch.get_default_dtype()


def test_the_device_is_that_of_the_layer_before():
    model = Net()
    model.layer2.to("meta")
    assert like(model, "layer1.1").weight.device.type == "cpu"
    assert like(model, "layer2.1").weight.device.type == "meta"


def test_buffers_inside_neurons_do_not_count():
    """All neurons share one default surrogate function, on which other tools leave buffers."""
    model = nn.Sequential(nn.Linear(2, 2), neuron.LIFNode())
    model[1].surrogate_function = nn.Identity()
    model[1].surrogate_function.register_buffer("total", torch.zeros(1, dtype=torch.float64))
    assert like(model, "1").weight.dtype == torch.float32


@pytest.mark.parametrize("training", [True, False])
def test_the_training_flag_is_that_of_the_module(training):
    model = Net()
    model.layer1[1].train(training)
    assert like(model, "layer1.1").training == training
    assert like(model, "layer2.1").training
