"""Faults: numbers that are none, errors and interrupts anywhere, threads, many repetitions.

What is asked each time: does it say so, does it do no other harm, and can one go on after it?
"""

import random
from collections.abc import Callable

import numpy as np
import pytest
from nets import Net, images
from spikingjelly.activation_based import layer
from torch import Tensor, nn

from sj_shortcut import ShortcutHead, shortcut_points, wrap_with_shortcuts

# ------------------------------------------------------------------------ traces of a trial forward


def drawn_from_numpy(channels: int, classes: int) -> ShortcutHead:
    """A head that draws its weights as SpikingJelly's GatedLIFNode does."""
    head = ShortcutHead(channels, classes)
    nn.init.constant_(head.linear.weight, np.random.rand())
    nn.init.constant_(head.linear.bias, random.random())
    return head


def test_heads_leave_the_generators_of_numpy_and_python_alone():
    np.random.seed(0)
    random.seed(0)
    due = np.random.rand(), random.random()
    np.random.seed(0)
    random.seed(0)
    wrap_with_shortcuts(Net(), head=drawn_from_numpy)
    assert (np.random.rand(), random.random()) == due


class Moody(nn.Module):
    """Draws from NumPy, and keeps count in plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x
        return x * np.random.rand()


@pytest.mark.parametrize("look", [shortcut_points, wrap_with_shortcuts])
def test_an_example_leaves_no_trace_in_plain_attributes(look: Callable[..., object]):
    model = Net()
    model.layer2 = nn.Sequential(Moody(), layer.Linear(16, 12, step_mode="m"), model.layer2[1])
    np.random.seed(0)
    due = np.random.rand()
    np.random.seed(0)
    look(model, example_input=images())
    assert (model.layer2[0].calls, model.layer2[0].last) == (0, None)
    assert np.random.rand() == due
