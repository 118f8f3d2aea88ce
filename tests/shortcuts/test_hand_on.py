"""Features averaged and handed on: one step of the graph, with the gradients of two."""

import pytest
import torch

from sj_shortcut.shortcuts.hand_on import averages, averages_and_features
from tests.shortcuts.tools import random_features

SHAPES = [(2, 3, 4, 6, 6), (2, 3, 4, 5, 7), (2, 3, 4, 6), (2, 3, 4), (3, 4, 6, 6), (3, 4)]


def is_timed(shape: tuple[int, ...]) -> bool:
    return shape[0] == 2


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("grid", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_two_readers(shape, grid, per_step):
    x = random_features(*shape).requires_grad_()
    how = (grid, is_timed(shape), per_step)
    found, handed = averages_and_features(x, *how)
    due = averages(x, *how)
    torch.testing.assert_close(found, due)
    torch.testing.assert_close(handed, x)
    (grad,) = torch.autograd.grad(found.square().sum() + handed.pow(3).sum(), x)
    (expected,) = torch.autograd.grad(due.square().sum() + x.pow(3).sum(), x)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_of_averages_is_that_of_the_head_alone(shape):
    x = random_features(*shape).requires_grad_()
    found, handed = averages_and_features(x, 1, is_timed(shape), False)
    (grad,) = torch.autograd.grad(found.sum() + 5 * handed.sum(), found)
    torch.testing.assert_close(grad, torch.ones_like(found))


def test_writing_over_what_was_handed_on_is_noticed():
    x = random_features(2, 3, 4, 6, 6).requires_grad_() * 1.0
    before = x._version
    _, handed = averages_and_features(x, 2, True, False)
    handed.add_(1.0)
    assert x._version == before + 1
