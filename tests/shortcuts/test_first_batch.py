"""The first real batch of a kind is looked at once more, and settles what was guessed."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer
from torch import Tensor, nn

from sj_shortcut import shortcut_branches, wrap_with_shortcuts
from sj_shortcut.shortcuts.first_batch import kind_of_input
from sj_shortcut.shortcuts.hooks import forwards_of
from tests.nets.small import Net, images
from tests.nets.zoo import lif


def count_calls(model: nn.Module) -> list[int]:
    """Not by a hook, which a look may leave out."""
    calls: list[int] = []
    forward = model.fc.forward
    model.fc.forward = lambda x: calls.append(1) or forward(x)
    return calls


def test_only_the_first_batch_of_a_kind_is_looked_at():
    model = wrap_with_shortcuts(Net())
    calls = count_calls(model)
    model(images())
    looked = len(calls)
    assert looked > 1
    for batch in (images(), images(5)):
        functional.reset_net(model)
        model(batch)
    assert len(calls) == looked + 2


def test_an_example_is_looked_at_when_wrapping_and_not_again():
    model = wrap_with_shortcuts(Net(), example_input=images())
    calls = count_calls(model)
    model(images())
    assert len(calls) == 1


@pytest.mark.parametrize("how", ["eval", "no_grad"])
def test_nothing_is_looked_at_where_heads_rest(how):
    model = wrap_with_shortcuts(Net()).train(how != "eval")
    calls = count_calls(model)
    with torch.set_grad_enabled(how != "no_grad"):
        model(images())
    assert len(calls) == 1


def test_another_step_mode_or_number_of_axes_is_another_kind():
    kinds = [
        kind_of_input((torch.rand(2, 3),), {}, "m"),
        kind_of_input((torch.rand(2, 3),), {}, "s"),
        kind_of_input((torch.rand(4, 2, 3),), {}, "m"),
        kind_of_input((torch.rand(2, 3), torch.rand(1)), {}, "m"),
    ]
    assert all(a != b for i, a in enumerate(kinds) for b in kinds[:i])
    assert kind_of_input((), {"x": torch.rand(7, 9)}, "m") == kinds[0]


class Backwards(nn.Module):
    """Takes no made-up batch, and is defined in another order than it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Sequential(layer.Linear(8, 6), lif())
        self.middle = nn.Sequential(layer.Linear(8, 8), lif())
        self.shallow = nn.Sequential(layer.Linear(4, 8), lif())
        self.fc = layer.Linear(6, 3)

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        return self.fc(self.deep(self.middle(self.shallow(x * gain))))


def test_the_first_batch_settles_the_order():
    model = wrap_with_shortcuts(Backwards(), ["middle.1", "shallow.1"], num_classes=3)
    assert list(shortcut_branches(model)) == ["middle.1", "shallow.1"]
    model(torch.rand(2, 4), torch.ones(1))
    assert list(shortcut_branches(model)) == ["shallow.1", "middle.1"]


def test_a_layout_that_is_told_goes_before_what_is_seen():
    model = wrap_with_shortcuts(Net(), layout={"layer1.1": "TNC"})
    model(images())
    assert {str(layout) for layout in forwards_of(model).layouts.values()} == {"TNC"}
    with pytest.raises(ValueError, match="names 4 axes, but the feature has 3"):
        wrap_with_shortcuts(Net(), layout="NTLC")


class Aside(Net):
    """An auxiliary branch that does not lead to the output, unknown until it runs."""

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        x = self.layer1(x * gain)
        self.seen = self.layer2(x)
        return self.fc(torch.cat([x[..., :6]], -1))


def test_a_side_branch_is_refused_at_the_first_batch():
    model = wrap_with_shortcuts(Aside(), "layer2.1")
    with pytest.raises(RuntimeError, match="does not depend on 'layer2.1'.*side branch"):
        model(images(), torch.ones(1))
