"""More of this in test_flow.py, where whole models run."""

import pytest
import torch
from spikingjelly.activation_based import base, neuron
from torch import nn

from sj_shortcut.torch_model.preserve import preserved, reset_states


class Counting(nn.Module):
    """Keeps things in every place where a module can keep things."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inplace", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("shared", self.inplace)
        self.register_buffer("nothing", None)
        self.calls = 0

    def forward(self) -> None:
        self.calls += 1
        self.inplace += 1
        self.replaced = self.replaced + 1
        self.nothing = torch.ones(1)
        self.new = 3
        assert self.shared is self.inplace


@pytest.mark.parametrize("failing", [False, True])
def test_everything_comes_back(failing: bool) -> None:
    module = nn.Sequential(Counting(), nn.Dropout())
    inner = module[0]
    held = inner.inplace, inner.replaced
    random = torch.get_rng_state()
    try:
        with preserved(module, inner):
            module.eval()
            inner()
            torch.rand(3)
            if failing:
                raise KeyError
    except KeyError:
        assert failing
    assert inner.calls == 0 and not hasattr(inner, "new") and inner.nothing is None
    assert inner.inplace is held[0] is inner.shared and inner.replaced is held[1]
    assert all(buffer.sum() == 0 and buffer._version == 0 for buffer in held)
    assert module.training and module[1].training
    assert torch.equal(torch.get_rng_state(), random)


def test_memories_come_back_untouched() -> None:
    class Keeper(base.MemoryModule):
        """Its reset value is a tensor, which SpikingJelly may restore in place."""

        def __init__(self) -> None:
            super().__init__()
            self.register_memory("kept", torch.zeros(2))

    keeper, spiking = Keeper(), neuron.LIFNode()
    model = nn.Sequential(keeper, spiking)
    keeper.kept = kept = torch.ones(2)
    spiking(torch.rand(3))
    v = spiking.v
    with preserved(model):
        reset_states(model)
        assert keeper.kept.sum() == 0 and spiking.v == 0.0
        spiking(torch.rand(4))
        keeper.kept += 5
    assert keeper.kept is kept and kept.tolist() == [1, 1] and spiking.v is v
    keeper.reset()
    assert keeper.kept.sum() == 0
