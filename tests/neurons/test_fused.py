from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sj_shortcut.neurons.fused import potentials_of
from tests.neurons.nets import first_generation, second_generation

FUSED = ["EIFNode", "IFNode", "ILIFNode", "IzhikevichNode", "LIFNode", "ParametricLIFNode"]


class Watching(TorchFunctionMode):
    """Asks for the potentials of every operator that a neuron calls."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.seen: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        potentials = potentials_of(func, outputs, self.module)
        if potentials is not None:
            self.seen.append(potentials)
        return outputs


def seen_in(module: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    with Watching(module) as watching:
        spikes = module(x)
    return spikes, watching.seen


@second_generation
@pytest.mark.parametrize("name", [*FUSED, "QIFNode"])
def test_potentials_of_a_fused_neuron_say_where_it_fires(name: str) -> None:
    torch.manual_seed(0)
    module = getattr(neuron, name)()
    module.step_mode = "m"
    spikes, seen = seen_in(module, 3 * torch.rand(4, 2, 50).requires_grad_())
    (potentials,) = seen
    assert potentials.shape == spikes.shape and not potentials.requires_grad
    fires = potentials >= (0.5 if name == "ILIFNode" else 0)  # ILIF rounds to whole spikes
    assert torch.equal(fires, spikes > 0)
    assert 0 < fires.sum() < fires.numel()


@second_generation
def test_they_are_a_tensor_of_their_own() -> None:
    module = neuron.LIFNode(step_mode="m")
    x = 3 * torch.rand(4, 2, 5)
    _, seen = seen_in(module, x)
    v = module.v.clone()
    seen[0].zero_()
    assert torch.equal(module.v, v)


def test_other_operators_have_none() -> None:
    module = neuron.LIFNode()
    assert potentials_of(torch.add, torch.ones(2), module) is None
    assert potentials_of(torch.ops.aten.add, torch.ones(2), module) is None


@first_generation
def test_neurons_of_the_first_generation_call_their_surrogate_function() -> None:
    module = neuron.LIFNode(step_mode="m", surrogate_function=surrogate.ATan())
    calls: list[Tensor] = []
    module.surrogate_function.register_forward_pre_hook(lambda _, args: calls.append(args[0]))
    _, seen = seen_in(module, torch.rand(4, 2, 5))
    assert not seen and len(calls) == 4
