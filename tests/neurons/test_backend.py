import copy

import pytest
import torch
from spikingjelly.activation_based import functional, neuron
from torch import nn

from sj_shortcut.neurons.backend import has_cupy_backend, set_backend
from tests.neurons.nets import Block, NonSpikingLIF, multi_step_net


def backends(model):
    return [getattr(module, "backend", None) for module in model.modules()]


def test_the_generation_is_told_by_what_it_can_do():
    assert has_cupy_backend() == hasattr(neuron.LIFNode(), "backend")
    assert has_cupy_backend() != hasattr(functional, "neuron_implementation")


def test_unknown_backend_lists_the_known_ones_and_a_near_match():
    with pytest.raises(ValueError, match=r"'auto', 'torch', 'cupy', 'triton', not 'tritn'\. Did.*"):
        set_backend(Block(), "tritn")
    with pytest.raises(ValueError, match=r"not 'CuPy'\. Did you mean 'cupy'\?"):
        set_backend(Block(), "CuPy")
    with pytest.raises(ValueError, match=r"not 3\.$"):
        set_backend(Block(), 3)


def test_model_without_neurons_is_refused():
    with pytest.raises(ValueError, match=r"model \(Linear\) has no spiking neuron"):
        set_backend(nn.Linear(2, 2))


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got list"):
        set_backend([neuron.LIFNode()])


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_one_row_for_each_neuron_with_its_path_and_class(backend):
    shared = neuron.IFNode()
    model = nn.Sequential(Block(), shared, shared, nn.Sequential(Block()), NonSpikingLIF())
    rows = set_backend(model, backend)
    assert [(row.name, row.module) for row in rows] == [
        ("0.sn", "LIFNode"),
        ("1", "IFNode"),
        ("3.0.sn", "LIFNode"),
    ]
    assert {row.backend for row in rows} == {"torch"}
    assert all(row.note for row in rows)


def test_a_neuron_is_a_model_too():
    rows = set_backend(neuron.LIFNode())
    assert [row.name for row in rows] == [""]
    assert "(model)  LIFNode  torch" in repr(rows)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_the_model_computes_the_same_afterwards(backend):
    model = multi_step_net(neuron.LIFNode(), neuron.IFNode())
    x = torch.rand(3, 2, 4)
    expected = copy.deepcopy(model)(x)
    keys = list(model.state_dict())
    set_backend(model, backend)
    assert torch.equal(model(x), expected)
    assert list(model.state_dict()) == keys


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU these are no errors")
@pytest.mark.parametrize("backend", ["cupy", "triton"])
def test_nothing_changes_on_an_error(backend):
    model = multi_step_net(neuron.LIFNode(), neuron.KLIFNode())
    before = backends(model)
    with pytest.raises((RuntimeError, ValueError)):
        set_backend(model, backend)
    assert backends(model) == before
