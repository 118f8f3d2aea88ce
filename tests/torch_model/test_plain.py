"""What makes a module do more than its class says."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from sj_shortcut.torch_model import is_plain


def test_a_module_and_its_copy_are_plain():
    linear = nn.Linear(2, 2)
    assert is_plain(linear, nn.Linear) and is_plain(copy.deepcopy(linear), nn.Linear)
    assert not is_plain(linear, nn.Module) and not is_plain(None, nn.Linear)


CHANGES = {
    "hook": lambda m: m.register_forward_hook(print),
    "hook before": lambda m: m.register_forward_pre_hook(print),
    "backward hook": lambda m: m.register_full_backward_hook(print),
    "hook before backward": lambda m: m.register_full_backward_pre_hook(print),
    "compiled": lambda m: m.compile(backend="eager"),
    "forward": lambda m: setattr(m, "forward", torch.relu),
    "pruned": lambda m: prune.l1_unstructured(m, "weight", 0.5),
    "parametrized": lambda m: parametrizations.weight_norm(m),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_done_to_a_module_is_seen(change):
    linear = nn.Linear(2, 2)
    CHANGES[change](linear)
    assert not is_plain(linear, nn.Linear)
