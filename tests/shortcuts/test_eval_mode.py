"""A loss taken in eval mode is told of where parameters are updated after it."""

import warnings

import pytest
import torch
from torch import nn

from sj_shortcut import ShortcutWarning, wrap_with_shortcuts
from sj_shortcut.shortcuts.eval_mode import watch_for_updates_in_eval_mode
from sj_shortcut.shortcuts.hooks import forwards_of
from tests.nets.small import Net


@pytest.mark.parametrize("updated", [False, True])
def test_an_update_before_the_next_forward_is_told_once(updated: bool) -> None:
    model = wrap_with_shortcuts(Net())
    forwards = forwards_of(model)
    watch_for_updates_in_eval_mode(model, forwards)  # nothing waits
    forwards.eval_backward = sum(p._version for p in model.parameters())
    if updated:
        nn.init.zeros_(model.fc.bias)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ShortcutWarning)
        for _ in range(2):
            watch_for_updates_in_eval_mode(model, forwards)
            torch.nn.init.zeros_(model.fc.bias)
    told = ["taken in eval mode was differentiated" in str(w.message) for w in caught]
    assert told == [True] * updated and forwards.eval_backward == -1
