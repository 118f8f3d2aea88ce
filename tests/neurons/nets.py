"""Networks of spiking neurons for the tests of backends, and how they train."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sj_shortcut.neurons.backend import has_cupy_backend

first_generation = pytest.mark.skipif(
    not has_cupy_backend(), reason="SpikingJelly 2.0.0 picks kernels by itself"
)
second_generation = pytest.mark.skipif(
    has_cupy_backend(), reason="SpikingJelly 0.0.0.0.14 has no kernels but CuPy's"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Readout(neuron.LIFNode):
    """A user's neuron."""


class NonSpikingLIF(neuron.LIFNode):
    """What SpikingJelly's reinforcement learning examples put at the end of a network."""


class Block(nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
        self.fc = layer.Linear(4, 4)
        self.sn = neuron.LIFNode(**kwargs)


def multi_step_net(*neurons):
    net = nn.Sequential(layer.Linear(4, 4), *neurons)
    functional.set_step_mode(net, "m")
    return net


def on_fake_cuda(model):
    """Make a model's parameters say that they are on CUDA; it can no longer be run."""
    with FakeTensorMode():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                fake = torch.empty(parameter.shape, device="cuda")
                setattr(module, name, nn.Parameter(fake))
    return model


def spikes_and_gradients(model, device="cuda"):
    torch.manual_seed(0)
    x = (torch.rand(4, 2, 64) * 2).to(device).requires_grad_()
    functional.reset_net(model)
    spikes = model(x)
    (spikes * torch.linspace(0, 1, 64, device=device)).sum().backward()
    return spikes.detach().cpu(), x.grad.cpu()


def assert_same_training(one, other):
    assert torch.equal(one[0], other[0])
    assert 0 < one[0].mean() < 1
    torch.testing.assert_close(one[1], other[1], rtol=1e-4, atol=1e-5)


TRAINABLE = [neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode, neuron.EIFNode]


def neuron_with_device(cls):
    # The scale is a parameter, so that neurons without any have a device to be on.
    return nn.Sequential(nn.PReLU(), cls(step_mode="m"))
