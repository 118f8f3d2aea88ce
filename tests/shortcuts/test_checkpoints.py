"""Weights of a wrapped model, loaded without its heads."""

import copy
from collections import OrderedDict
from types import MappingProxyType

import pytest
import torch
from torch import nn

from sj_shortcut import remove_shortcuts, without_shortcuts, wrap_with_shortcuts
from tests.nets.small import Net
from tests.nets.zoo import ZOO
from tests.shortcuts.tools import SpikingHead


@pytest.mark.parametrize(
    ("name", "head"), [*((name, None) for name in ZOO), (next(iter(ZOO)), SpikingHead)]
)
def test_what_is_left_is_what_removal_leaves(name, head):
    model = wrap_with_shortcuts(ZOO[name].make("m"), head=head)
    state = copy.deepcopy(model.state_dict())
    found = without_shortcuts(state)
    expected = remove_shortcuts(model).state_dict()
    assert list(found) == list(expected) and len(found) < len(state)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    plain = ZOO[name].make("m")
    assert not any(plain.load_state_dict(found))


def test_through_a_file_and_with_the_versions_of_modules(tmp_path):
    state = wrap_with_shortcuts(Net()).state_dict()
    torch.save(state, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=True)
    found = without_shortcuts(loaded)
    assert isinstance(found, OrderedDict)
    assert found._metadata == Net().state_dict()._metadata
    assert len(loaded) == len(state)  # which stays whole
    assert not any(Net().load_state_dict(found))


def test_a_state_without_heads_is_given_back_and_any_mapping_taken():
    state = Net().state_dict()
    assert list(without_shortcuts(state)) == list(state)
    assert list(without_shortcuts(MappingProxyType(state))) == list(state)


def test_parts_of_a_model_keep_their_names():
    whole = nn.ModuleDict({"net": wrap_with_shortcuts(Net())})
    assert list(without_shortcuts(whole.state_dict())) == [f"net.{k}" for k in Net().state_dict()]


@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        (Net(), TypeError, "save model.state_dict\\(\\) rather than the model"),
        ({0: torch.rand(2)}, TypeError, "by name"),
        (
            {"epoch": 3, "model": Net().state_dict()},
            ValueError,
            "'model'.*pass the entry that is the model's",
        ),
    ],
)
def test_what_is_refused(state, error, text):
    with pytest.raises(error, match=text):
        without_shortcuts(state)
