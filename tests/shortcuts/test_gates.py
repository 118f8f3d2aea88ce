"""A head without a gradient hands none on, whatever is broken in it."""

import math

import torch
from torch import Tensor, nn

from sj_shortcut.shortcuts.gates import above, below


def gradients(head: nn.Linear, weight: float) -> tuple[Tensor, Tensor]:
    """Of the features, through gates and without."""
    found = []
    for gated in (True, False):
        x = torch.arange(6.0).reshape(2, 3).requires_grad_()
        features, key = below(x) if gated else (x, None)
        (weight * above(head(features), key).square().sum()).backward()
        found.append(x.grad)
    return found[0], found[1]


def test_gradients_pass_as_they_are():
    found, expected = gradients(nn.Linear(3, 4), 0.5)
    assert torch.equal(found, expected) and expected.any()


def test_a_gradient_of_zeros_stays_one_behind_a_broken_head():
    head = nn.Linear(3, 4)
    with torch.no_grad():
        head.weight.fill_(math.inf)
    x = torch.ones(2, 3, requires_grad=True)
    features, key = below(x)
    logits = above(head(features), key)
    torch.where(torch.tensor(False), logits, 0.0).sum().backward()
    assert torch.equal(x.grad, torch.zeros(2, 3))


def test_a_gradient_that_is_nan_is_not_hidden():
    found, _ = gradients(nn.Linear(3, 4), math.nan)
    assert found.isnan().all()


def test_features_without_a_gradient_need_no_gate():
    x = torch.ones(2, 3)
    assert below(x) == (x, None)
    logits = torch.ones(2, 4)
    assert above(logits, None) is logits


def test_half_precision():
    x = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)
    features, key = below(x)
    above(features.float(), key).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
