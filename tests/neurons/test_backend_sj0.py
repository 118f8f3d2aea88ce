"""SpikingJelly 0.0.0.0.14, whose neurons have a backend that can be set."""

import pytest
import torch
from spikingjelly.activation_based import base, layer, neuron, surrogate
from torch import nn

from sj_shortcut.neurons.backend import set_backend
from tests.neurons.nets import (
    TRAINABLE,
    Block,
    assert_same_training,
    first_generation,
    multi_step_net,
    needs_cuda,
    neuron_with_device,
    on_fake_cuda,
    spikes_and_gradients,
)


@pytest.fixture
def pretend_cuda(monkeypatch):
    """Let selection be tested without a GPU: once called, CuPy and CUDA say that they are there."""

    def pretend():
        monkeypatch.setattr(base, "check_backend_library", lambda backend: None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    return pretend


@first_generation
def test_triton_names_the_generation_that_has_it():
    advice = r"'auto' or 'cupy'.*pip install spikingjelly==2\.0\.0; to check: pip show spikingjelly"
    with pytest.raises(ValueError, match=rf"'triton' does not exist.*{advice}"):
        set_backend(Block(), "triton")


@first_generation
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what lacks without a GPU")
def test_cupy_says_all_that_is_missing_and_how_to_get_it():
    with pytest.raises(RuntimeError) as error:
        set_backend(nn.Sequential(Block(step_mode="m")), "cupy")
    assert "PyTorch sees no CUDA GPU (it takes an NVIDIA GPU" in str(error.value)
    assert "to check: nvidia-smi;" in str(error.value)
    assert "print(torch.version.cuda, torch.cuda.is_available())" in str(error.value)
    assert "0.sn (LIFNode) is on cpu (call model.to('cuda') first)" in str(error.value)
    if base.cupy is None:
        assert "CuPy cannot be imported (pip install cupy-cuda" in str(error.value)
        assert "to check: python -c 'import cupy; cupy.show_config()'" in str(error.value)


@first_generation
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what lacks without a GPU")
def test_auto_says_why_it_is_torch():
    (row,) = set_backend(Block(step_mode="m"), "auto")
    assert "PyTorch sees no CUDA GPU; backend 'cupy' says what to do about it" in row.note


@first_generation
def test_auto_keeps_a_model_on_the_cpu_on_torch(pretend_cuda):
    pretend_cuda()
    (row,) = set_backend(Block(step_mode="m"), "auto")
    assert (row.backend, row.note) == ("torch", "on cpu, and CuPy needs CUDA")


@first_generation
@pytest.mark.parametrize("backend", ["auto", "cupy"])
def test_cupy_goes_where_it_can_and_rows_say_why_not_elsewhere(pretend_cuda, backend):
    model = on_fake_cuda(
        multi_step_net(
            neuron.LIFNode(),
            neuron.KLIFNode(),
            neuron.IFNode(surrogate_function=surrogate.Erf()),
            neuron.ParametricLIFNode(),
            neuron.EIFNode(),
        )
    )
    model[5].step_mode = "s"
    pretend_cuda()
    rows = set_backend(model, backend)
    assert [row.backend for row in rows] == ["cupy", "torch", "torch", "cupy", "torch"]
    assert [module.backend for module in model[1:]] == [row.backend for row in rows]
    assert rows[0].note == "CuPy kernels on cuda:0"
    assert rows[1].note == "KLIFNode has no CuPy kernels"
    assert rows[2].note == "surrogate function Erf has no CUDA code"
    assert rows[4].note == "single-step mode has no CuPy kernels (step_mode='m' may)"


@first_generation
def test_torch_takes_cupy_away_again(pretend_cuda):
    model = on_fake_cuda(multi_step_net(neuron.LIFNode()))
    pretend_cuda()
    assert set_backend(model, "cupy")[0].backend == "cupy"
    assert set_backend(model, "torch")[0].backend == "torch"
    assert model[1].backend == "torch"


@first_generation
def test_cupy_that_fits_no_neuron_is_an_error(pretend_cuda):
    model = on_fake_cuda(nn.Sequential(layer.Linear(2, 2), neuron.LIFNode(), neuron.KLIFNode()))
    pretend_cuda()
    with pytest.raises(RuntimeError, match=r"fits no neuron.*1 \(LIFNode\): single-step.*set_step"):
        set_backend(model, "cupy")
    assert [model[1].backend, model[2].backend] == ["torch", "torch"]


@first_generation
def test_one_neuron_on_the_cpu_keeps_cupy_from_all(pretend_cuda):
    model = nn.Sequential(on_fake_cuda(multi_step_net(neuron.LIFNode())), Block(step_mode="m"))
    pretend_cuda()
    with pytest.raises(RuntimeError, match=r"1\.sn \(LIFNode\) is on cpu"):
        set_backend(model, "cupy")
    assert model[0][1].backend == "torch"


@pytest.mark.gpu
@needs_cuda
@first_generation
@pytest.mark.parametrize("cls", TRAINABLE)
def test_cupy_trains_like_torch(cls):
    pytest.importorskip("cupy")
    model = neuron_with_device(cls).cuda()
    assert set_backend(model, "torch")[0].backend == "torch"
    expected = spikes_and_gradients(model)
    assert set_backend(model, "cupy")[0].backend == "cupy"
    assert_same_training(spikes_and_gradients(model), expected)
