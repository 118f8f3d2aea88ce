"""What must hold before heads are put into a model."""

import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from sj_shortcut import ShortcutHead, shortcut_branches, wrap_with_shortcuts
from sj_shortcut.shortcuts.checks import (
    check_apart,
    check_factory,
    check_wrappable,
    settle_num_classes,
)
from tests.nets.small import Net


def test_what_takes_no_heads_is_refused():
    check_wrappable(Net())
    with pytest.raises(TypeError, match="DataParallel"):
        check_wrappable(nn.DataParallel(Net()))
    with pytest.raises(TypeError, match="compiled by torch.jit"):
        check_wrappable(torch.jit.script(nn.Linear(2, 2)))
    holder = nn.Sequential(torch.compile(Net(), backend="eager"))
    with pytest.raises(TypeError, match="its submodule '0' is compiled already"):
        check_wrappable(holder)


def test_what_has_heads_is_refused_wherever_they_are():
    model = wrap_with_shortcuts(Net())
    with pytest.raises(ValueError, match="Net cannot be wrapped: it has shortcuts already"):
        check_wrappable(model)
    with pytest.raises(ValueError, match="its submodule '0' has shortcuts already"):
        check_wrappable(nn.Sequential(model))
    with pytest.raises(ValueError, match="cannot be wrapped: it has shortcuts already"):
        check_wrappable(model.layer1)  # a part of a wrapped model


@pytest.mark.parametrize("head", [None, ShortcutHead, lambda channels, classes: nn.Identity()])
def test_what_makes_heads(head):
    check_factory(head)


@pytest.mark.parametrize("head", [nn.Linear(2, 2), 3, "linear"])
def test_what_makes_no_heads(head):
    with pytest.raises(TypeError, match="head must make a new module at each call"):
        check_factory(head)


def test_the_class_count_is_what_is_said_or_else_seen():
    assert settle_num_classes(None, 7) == 7
    assert settle_num_classes(3, 7) == 3
    for wrong in (True, 2.0, "3"):
        with pytest.raises(TypeError, match="num_classes must be an int"):
            settle_num_classes(wrong, 7)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        settle_num_classes(0, 7)
    with pytest.raises(ValueError, match="do not tell the number of classes: pass num_classes="):
        settle_num_classes(None, None)


def test_heads_share_nothing_but_surrogate_functions():
    model = Net()
    check_apart(model, {"a": neuron.LIFNode(), "b": neuron.LIFNode()})  # one default surrogate
    linear = layer.Linear(2, 2)
    with pytest.raises(ValueError, match="for 'b' a Linear that belongs to the head at 'a'"):
        check_apart(model, {"a": linear, "b": nn.Sequential(linear)})
    with pytest.raises(ValueError, match="for 'a' a Linear that belongs to the model already"):
        check_apart(model, {"a": nn.Sequential(model.fc)})
    with pytest.raises(ValueError, match="for 'a' a LIFNode that belongs to the model already"):
        check_apart(model, {"a": nn.Sequential(model.layer1[1])})


def test_a_refusal_leaves_the_model_as_it_was():
    model = Net()
    before = repr(model)
    with pytest.raises(ValueError, match="make a new one at each call"):
        wrap_with_shortcuts(model, head=lambda channels, classes: model.fc)
    assert repr(model) == before and not model._forward_hooks
    assert list(shortcut_branches(wrap_with_shortcuts(model))) == ["layer1.1", "layer2.1"]
