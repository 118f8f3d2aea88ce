"""Inputs made up for models of which only the modules are known."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer
from torch import nn

from sj_shortcut.places.made_up import made_up_inputs
from tests.nets.zoo import conv_net, features, lif


def shapes(model: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in made_up_inputs(model)]


def test_the_step_mode_tells_whether_time_is_likely():
    model = conv_net()
    assert shapes(model)[0] == (5, 3, 32, 32)
    functional.set_step_mode(model, "m")
    assert shapes(model)[0] == (4, 5, 3, 32, 32)
    assert {(5, 3, 32, 32), (5, 4, 3, 32, 32), (24, 3, 32, 32)} <= set(shapes(model))


def test_the_first_layer_tells_channels_and_axes():
    assert {shape[-1] for shape in shapes(features())} == {12}
    assert {(5, 12), (5, 7, 12), (4, 5, 12)} <= set(shapes(features()))
    assert {(4, 5, 7, 12), (5, 4, 7, 12)} <= set(shapes(features()))  # tokens
    line = nn.Sequential(layer.Conv1d(2, 4, 3), lif(), layer.Flatten(), nn.Linear(8, 2))
    assert all(shape[-2] == 2 for shape in shapes(line))


@pytest.mark.parametrize("model", [nn.Sequential(lif()), nn.Sequential(nn.LazyLinear(3), lif())])
def test_without_a_layer_that_tells_there_are_none(model):
    assert shapes(model) == []


def test_they_have_the_dtype_of_the_layer_and_draw_nothing():
    model, state = features().double(), torch.get_rng_state()
    x = next(made_up_inputs(model))
    assert x.dtype == torch.float64 and x.min() >= 0
    assert torch.equal(torch.get_rng_state(), state)
