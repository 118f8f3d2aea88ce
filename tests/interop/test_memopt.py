"""SpikingJelly's memory optimizer: what it leaves the heads is right, or an error."""

import copy
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from sj_shortcut import (
    ShortcutLoss,
    remove_shortcuts,
    shortcut_parameters,
    wrap_with_shortcuts,
)
from tests.nets.small import Net, gradients, images, labels

memopt = pytest.importorskip(
    "spikingjelly.activation_based.memopt", reason="SpikingJelly 0.0.0.0.14 has no memopt"
)
WRAPPER = "_checkpoint_wrapped_module."


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def example(model: nn.Module) -> Tensor:
    return model(images())


def optimized(model: nn.Module, targets: type, compress: bool = True) -> nn.Module:
    return memopt.optimize_memory(model, targets, example, level=1, compress=compress)


def in_chunks(model: nn.Module) -> nn.Module:
    model.layer1 = memopt.checkpoint_module(model.layer1, chunks=2)
    return model


def step(model: nn.Module, x: Tensor, per_step: bool) -> None:
    model.zero_grad()
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), per_step=per_step)
    output = model(x)
    criterion(output if per_step else output.mean(0), labels()).backward()
    functional.reset_net(model)


def assert_trains_as_without(
    prepare: Callable[[nn.Module], nn.Module],
    per_step: bool,
    atol: float = 0.0,
    reads: Literal["spikes", "currents"] = "spikes",
) -> None:
    """Gradients of weights and heads against those of the same model without memopt."""
    plain = Net()
    model = prepare(copy.deepcopy(plain))
    wrap_with_shortcuts(plain, reads=reads)
    with torch.no_grad():
        heads = zip(shortcut_parameters(model), shortcut_parameters(plain), strict=True)
        for head, of_plain in heads:
            head.copy_(of_plain)
    for _ in range(2):
        x = images()
        step(plain, x, per_step)
        step(model, x, per_step)
        expected, heads = own_and_heads(plain)
        own, of_heads = own_and_heads(model)
        assert own.keys() == expected.keys() and len(of_heads) == len(heads) == 4
        for grad, due in zip((*own.values(), *of_heads), (*expected.values(), *heads), strict=True):
            assert due.any()
            torch.testing.assert_close(grad, due, rtol=0, atol=atol)
    remove_shortcuts(model)
    assert list(model.state_dict()) == list(Net().state_dict())


def own_and_heads(model: nn.Module) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Gradients of the weights by name, and those of the heads, which may hang elsewhere."""
    named = {name.replace(WRAPPER, ""): grad for name, grad in gradients(model).items()}
    own = {name: grad for name, grad in named.items() if "shortcut_head" not in name}
    return own, [grad for name, grad in named.items() if "shortcut_head" in name]


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("targets", [nn.Sequential, layer.Linear])
def test_memory_optimized_after_wrapping(targets, compress, per_step):
    def prepare(model: nn.Module) -> nn.Module:
        return optimized(wrap_with_shortcuts(model), targets, compress)

    assert_trains_as_without(prepare, per_step)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("targets", [nn.Sequential, layer.Linear, neuron.LIFNode])
def test_memory_optimized_before_wrapping(targets, per_step):
    assert_trains_as_without(lambda model: wrap_with_shortcuts(optimized(model, targets)), per_step)


def test_currents_into_checkpointed_neurons_are_read_or_refused():
    assert_trains_as_without(
        lambda model: wrap_with_shortcuts(optimized(model, neuron.LIFNode), reads="currents"),
        per_step=False,
        reads="currents",
    )
    for model in (optimized(Net(), nn.Sequential), in_chunks(Net())):
        with pytest.raises(ValueError, match="'layer1.*, as a checkpoint around it may run it"):
            wrap_with_shortcuts(model, reads="currents")


@pytest.mark.parametrize("per_step", [False, True])
def test_chunks_of_time_before_wrapping(per_step):
    assert_trains_as_without(
        lambda model: wrap_with_shortcuts(in_chunks(model)), per_step, atol=1e-7
    )


@pytest.mark.parametrize("per_step", [False, True])
def test_chunks_of_time_after_wrapping(per_step):
    assert_trains_as_without(
        lambda model: in_chunks(wrap_with_shortcuts(model)), per_step, atol=1e-7
    )


def test_neurons_checkpointed_after_wrapping_are_an_error():
    model = wrap_with_shortcuts(Net())
    optimized(model, neuron.LIFNode)
    output = model(images()).mean(0)
    with pytest.raises(
        RuntimeError, match="'layer1.1', 'layer2.1' have no logits: .* memopt if it"
    ):
        ShortcutLoss(model, nn.CrossEntropyLoss())(output, labels())
