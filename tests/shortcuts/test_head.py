"""What the default head computes, of every kind of features."""

import pytest
import torch
from hypothesis import example, given
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_shortcut import (
    ShortcutHead,
    shortcut_branches,
    shortcut_points,
    wrap_with_shortcuts,
)
from sj_shortcut.shortcuts.head import default_grid
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


def net(classes: int, hidden: int = 8) -> nn.Module:
    model = nn.Sequential(
        layer.Conv2d(1, 4, 3), neuron.LIFNode(), layer.Conv2d(4, 6, 3), neuron.LIFNode(),
        layer.Flatten(), layer.Linear(96, hidden), neuron.LIFNode(), layer.Linear(hidden, 5),
        neuron.LIFNode(), layer.Linear(5, classes),
    )  # fmt: skip
    functional.set_step_mode(model, "m")
    return model


def widths(model: nn.Module) -> dict[str, int]:
    branches = shortcut_branches(model)
    return {name: branch.head.linear.in_features for name, branch in branches.items()}


@pytest.mark.parametrize("grid", [1, 2, 4])
def test_default_heads_part_the_map_where_there_is_one(grid):
    model = wrap_with_shortcuts(net(3), at="all", grid=grid)
    assert widths(model) == {"1": 4 * grid**2, "3": 6 * grid**2, "6": 8}
    assert model(torch.rand(2, 3, 1, 8, 8)).shape == (2, 3, 3)


def test_the_default_is_the_finest_grid_within_a_tenth_of_the_parameters():
    # Both heads of grid 2 have ((4 + 6) * 4 + 2) * K = 42 K parameters, of 1 they have 12 K.
    model = net(classes=3, hidden=11)
    own = sum(p.numel() for p in model.parameters())
    assert own == 40 + 222 + 97 * 11 + 12 * 5 + 6 * 3  # 1407
    assert widths(wrap_with_shortcuts(model, at=["1", "3"])) == {"1": 16, "3": 24}  # 126
    assert widths(wrap_with_shortcuts(net(4, hidden=11), at=["1", "3"])) == {"1": 4, "3": 6}  # 168
    # Where not even a grid of 1 is, it stays.
    assert widths(wrap_with_shortcuts(net(100), at=["1", "3"])) == {"1": 4, "3": 6}


def test_the_budget_is_that_of_all_heads_together():
    def both(at: object) -> list[int]:
        return list(widths(wrap_with_shortcuts(net(6, hidden=11), at=at)).values())

    assert (both(["1"]), both(["3"]), both(["1", "3"])) == ([16], [6], [4, 6])


def test_parameters_that_have_no_size_yet_do_not_count():
    model = nn.Sequential(
        layer.Conv2d(1, 4, 3), neuron.LIFNode(), layer.Conv2d(4, 6, 3), neuron.LIFNode(),
        layer.Flatten(), nn.LazyLinear(5),
    )  # fmt: skip
    points = [point for point in shortcut_points(model) if point.name == "1"]
    assert default_grid(model, points, 1) == 2  # 17 of 262
    assert default_grid(model, points, 2) == 1


class Averaged(nn.Module):
    """Takes channels last, ``[T, N, H, W, C]``, which no made-up batch has."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(3, 8), neuron.LIFNode(v_threshold=0.1),
            nn.Linear(8, 6), neuron.LIFNode(v_threshold=0.1),
        )  # fmt: skip
        self.classifier = nn.Linear(6, 4)
        functional.set_step_mode(self, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.body(x).mean((0, 2, 3)))


def test_a_grid_that_was_told_is_taken_where_no_map_was_seen():
    model = wrap_with_shortcuts(Averaged(), at=["body.1"], grid=2)
    assert widths(model) == {"body.1": 8 * 4}
    assert model(torch.rand(2, 3, 8, 6, 3)).shape == (3, 4)


def test_a_grid_is_for_default_heads():
    with pytest.raises(ValueError, match=r"grid= is for the default heads, and head= makes others"):
        wrap_with_shortcuts(net(3), head=ShortcutHead, grid=2)
    model = net(3)
    with pytest.raises(ValueError, match="grid must be a whole number of at least 1, got 0"):
        wrap_with_shortcuts(model, grid=0)
    assert not any("shortcut" in name for name in model.state_dict())


@pytest.mark.parametrize("grid", [0, -1, 1.5, True, "2"])
def test_a_grid_that_is_none(grid):
    with pytest.raises(ValueError, match="grid must be a whole number of at least 1"):
        ShortcutHead(3, 2, grid)
