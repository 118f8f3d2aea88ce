"""A compiled model that the compiler cuts in pieces, as where it meets what it cannot trace."""

import copy
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from sj_shortcut import ShortcutLoss, wrap_with_shortcuts
from tests.nets.small import (
    Net,
    StatelessNet,
    gradients,
    images,
    labels,
    skip_unless_neurons_compile,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*side effects")

CE = nn.CrossEntropyLoss()
RECOMPILED_TOO_OFTEN = 10  # of the same code, after which it runs uncompiled


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    torch.compiler.reset()


class Pieces(StatelessNet):
    """Cut between the first head and the second, and again between the second and the output."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(x)
        torch._dynamo.graph_break()
        x = self.layer2(x)
        torch._dynamo.graph_break()
        return self.fc(self.layer3(x))


class PiecesOfSequential(nn.Sequential):
    """Cut in a loop, so that every module and every hook of it is a piece of its own."""

    def __init__(self, step_mode: str) -> None:
        net = StatelessNet(step_mode)
        super().__init__(net.layer1, Cut(), net.layer2, Cut(), net.layer3, net.fc)


class Cut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x


def pair(net: Any, mode: str = "m") -> list[tuple[nn.Module, ShortcutLoss]]:
    example = images() if mode == "m" else images()[0]
    model = wrap_with_shortcuts(net(mode), example_input=example)
    return [(one, ShortcutLoss(one, CE)) for one in (model, copy.deepcopy(model))]


def assert_same_step(total: Tensor, model: nn.Module, expected: Tensor, twin: nn.Module) -> None:
    for one in (model, twin):
        one.zero_grad()
    total.backward()
    expected.backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(gradients(model), gradients(twin), rtol=1e-5, atol=1e-6)
    assert any("shortcut_head" in name and g.any() for name, g in gradients(model).items())
    for one in (model, twin):
        functional.reset_net(one)


@pytest.mark.parametrize("mode", ["m", "s"])
@pytest.mark.parametrize("net", [Pieces, PiecesOfSequential])
def test_an_output_is_paired_with_logits_of_other_pieces(net, mode):
    (model, loss), (twin, other) = pair(net, mode)
    compiled = torch.compile(model, backend="aot_eager")

    def run(model: nn.Module, x: Tensor) -> Tensor:
        return model(x) if mode == "m" else torch.stack([model(step) for step in x])

    for _ in range(RECOMPILED_TOO_OFTEN):
        x, y = images(), labels()
        total, expected = loss(run(compiled, x).mean(0), y), other(run(twin, x).mean(0), y)
        assert_same_step(total, model, expected, twin)


def test_each_of_two_outputs_of_pieces_is_paired_with_its_own():
    (model, loss), (twin, other) = pair(PiecesOfSequential, "s")
    compiled = torch.compile(model, backend="aot_eager")
    x, y = images()[0], labels()
    first, second = compiled(x), compiled(2 * x)
    total = loss(first, y) + 2 * loss(second, y)
    expected = other(twin(x), y) + 2 * other(twin(2 * x), y)
    assert_same_step(total, model, expected, twin)


@pytest.mark.parametrize("net", [StatelessNet, PiecesOfSequential])
def test_an_output_before_the_last_of_a_compiled_model_is_told(net):
    (model, loss), _ = pair(net)
    compiled = torch.compile(model, backend="aot_eager")
    first, second = compiled(images()), compiled(images())
    assert loss(second.mean(0), labels()) > 0
    with pytest.raises(RuntimeError, match="not of the last forward of a compiled model"):
        loss(first.mean(0), labels())


def test_outputs_of_pieces_may_be_added_up_in_place():
    (model, loss), (twin, other) = pair(PiecesOfSequential, "s")
    compiled = torch.compile(model, backend="aot_eager")
    x, y = images(), labels()
    summed = compiled(x[0])
    summed += compiled(x[1])
    total, expected = loss(summed / 2, y), other((twin(x[0]) + twin(x[1])) / 2, y)
    assert_same_step(total, model, expected, twin)


def test_an_output_of_another_models_pieces_is_told():
    (model, _), (twin, other) = pair(PiecesOfSequential)
    compiled = torch.compile(model, backend="aot_eager")
    twin(images())
    with pytest.raises(RuntimeError, match="wrapped PiecesOfSequential"):
        other(compiled(images()).mean(0), labels())


def test_neurons_with_memory_in_pieces():
    class Remembering(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.layer1(x)
            torch._dynamo.graph_break()
            return self.fc(self.layer3(self.layer2(x)))

    skip_unless_neurons_compile()
    (model, loss), (twin, other) = pair(Remembering)
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(3):
        x, y = images(), labels()
        total, expected = loss(compiled(x).mean(0), y), other(twin(x).mean(0), y)
        assert_same_step(total, model, expected, twin)
