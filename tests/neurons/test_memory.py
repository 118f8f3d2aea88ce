import pytest
import torch
from spikingjelly.activation_based import base, functional, neuron
from torch import nn

from sj_shortcut.neurons.memory import (
    Resettable,
    forget_reset_cache,
    has_memory,
    reset_states,
)
from sj_shortcut.torch_model.preserve import preserved

second_generation = pytest.mark.skipif(
    not hasattr(functional, "invalidate_reset_cache"),
    reason="SpikingJelly 0.0.0.0.14 remembers nothing of reset_net",
)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.sn = neuron.IFNode()


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


@pytest.mark.parametrize("reset", ["child", "root", "parent", "sibling"])
def test_forgetting_lets_a_new_module_be_reset_through_every_root(reset):
    root = nn.Sequential(Block())
    roots = {
        "child": root[0],
        "root": root,
        "parent": nn.Sequential(root),
        "sibling": nn.Sequential(root[0]),
    }
    for module in roots.values():
        functional.reset_net(module)
    root[0].head = neuron.IFNode()
    forget_reset_cache(root)
    root[0].head.v = 1.0
    functional.reset_net(roots[reset])
    assert root[0].head.v == 0.0


@second_generation
def test_without_forgetting_a_new_module_is_never_reset():
    root = nn.Sequential(Block())
    functional.reset_net(root)
    root[0].head = neuron.IFNode()
    root[0].head.v = 1.0
    functional.reset_net(root)
    assert root[0].head.v == 1.0


def test_forgetting_a_model_that_was_never_reset_is_fine():
    model = Block()
    forget_reset_cache(model)
    model.sn.v = 1.0
    functional.reset_net(model)
    assert model.sn.v == 0.0


def test_reset_net_reaches_what_is_resettable_without_a_warning(recwarn):
    class Counter(Resettable):
        resets = 0

        def reset(self) -> None:
            self.resets += 1

    model = nn.Sequential(Counter(), nn.Identity())
    functional.reset_net(model)
    functional.detach_net(model)
    assert model[0].resets == 1 and not recwarn
    assert has_memory(model[0]) and has_memory(neuron.IFNode())
    assert not has_memory(model) and not has_memory(nn.Linear(2, 2))
