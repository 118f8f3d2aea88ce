import pytest
import torch
from torch import nn

from sj_shortcut.torch_model.checks import did_you_mean, require_module


def test_modules_are_let_through() -> None:
    require_module(nn.Identity())
    require_module(torch.jit.script(nn.Identity()))


@pytest.mark.parametrize("value, name", [(None, "NoneType"), ([nn.Identity()], "list"), (3, "int")])
def test_anything_else_is_named(value: object, name: str) -> None:
    with pytest.raises(TypeError, match=rf"^model must be a torch.nn.Module, got {name}\.$"):
        require_module(value)


def test_a_class_of_modules_is_told_to_be_called() -> None:
    with pytest.raises(TypeError, match=r"got the class Identity: make one, as in Identity\("):
        require_module(nn.Identity)
    with pytest.raises(TypeError, match=r"got type\.$"):
        require_module(int)


def test_hints() -> None:
    known = ["layer1", "layer2", "layer3", "layer4", "classifier"]
    assert did_you_mean("clasifier", known, count=1) == " Did you mean 'classifier'?"
    assert did_you_mean("CLASSIFIER", known, count=1) == " Did you mean 'classifier'?"
    assert did_you_mean("layer", known).count("'layer") == 3
    assert did_you_mean("layer", known, count=1).count("'layer") == 1
    assert did_you_mean("xyz", known) == did_you_mean(3, known) == did_you_mean("a", []) == ""
