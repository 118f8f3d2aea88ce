"""What the default head computes, of every kind of features."""

import pytest
import torch
from hypothesis import example, given
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_shortcut import (
    ShortcutHead,
    shortcut_branches,
    wrap_with_shortcuts,
)
from tests.shortcuts.tools import (
    averages,
    grids,
    random_features,
    sizes,
    spaces,
)


@given(batch=sizes, channels=sizes, classes=sizes, space=spaces, grid=grids)
@example(batch=2, channels=3, classes=2, space=[8, 8], grid=4)
@example(batch=2, channels=3, classes=2, space=[7, 5], grid=2)
def test_the_default_head_averages_over_parts_of_space(batch, channels, classes, space, grid):
    head = ShortcutHead(channels, classes, grid).double()
    x = random_features(batch, channels, *space)
    due = averages(x, grid) @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(x), due)


def test_default_heads_part_the_map_where_there_is_one():
    model = nn.Sequential(
        layer.Conv2d(1, 4, 3), neuron.LIFNode(), layer.Conv2d(4, 6, 3), neuron.LIFNode(),
        layer.Flatten(), layer.Linear(96, 8), neuron.LIFNode(), layer.Linear(8, 5),
        neuron.LIFNode(), layer.Linear(5, 3),
    )  # fmt: skip
    functional.set_step_mode(model, "m")
    wrap_with_shortcuts(model, at="all")
    sizes = {
        name: branch.head.linear.in_features for name, branch in shortcut_branches(model).items()
    }
    assert sizes == {"1": 4 * 4, "3": 6 * 4, "6": 8}
    assert model(torch.rand(2, 3, 1, 8, 8)).shape == (2, 3, 3)


@pytest.mark.parametrize("grid", [0, -1, 1.5, True, "2"])
def test_a_grid_that_is_none(grid):
    with pytest.raises(ValueError, match="grid must be a whole number of at least 1"):
        ShortcutHead(3, 2, grid)
