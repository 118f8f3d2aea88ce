"""What branches hand to heads, in both step modes, the user's own heads among them."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from sj_shortcut import (
    ShortcutBranch,
    ShortcutHead,
    shortcut_branches,
    shortcut_logits,
    wrap_with_shortcuts,
)
from tests.nets.zoo import ZOO, features
from tests.shortcuts.tools import (
    SpikingHead,
    averages,
    both_modes,
    conv_net_with,
    feed,
    grids,
    head_of,
    random_features,
    run,
    sizes,
    spaces,
)


@given(
    steps=sizes,
    batch=sizes,
    channels=sizes,
    classes=sizes,
    space=spaces,
    grid=grids,
    mode=st.sampled_from("ms"),
)
def test_a_branch_averages_over_time_and_space(steps, batch, channels, classes, space, grid, mode):
    head = ShortcutHead(channels, classes, grid)
    branch = ShortcutBranch("point", head, channels, classes).double()
    x = random_features(steps, batch, channels, *space)
    average = torch.stack([averages(step, grid) for step in x]).mean(0)
    torch.testing.assert_close(feed(branch, x, mode), head.linear(average))


@given(
    steps=sizes,
    batch=sizes,
    channels=sizes,
    classes=sizes,
    space=spaces,
    grid=grids,
    mode=st.sampled_from("ms"),
)
def test_a_branch_per_step_keeps_every_step(steps, batch, channels, classes, space, grid, mode):
    head = ShortcutHead(channels, classes, grid)
    branch = ShortcutBranch("point", head, channels, classes).double()
    x = random_features(steps, batch, channels, *space)
    logits = feed(branch, x, mode, per_step=True)
    due = head.linear(torch.stack([averages(step, grid) for step in x]))
    torch.testing.assert_close(logits, due)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@both_modes
@pytest.mark.parametrize("grid", [1, 2, 3])
def test_the_average_of_a_large_map_does_not_overflow(dtype, mode, grid):
    """Each step's sum, and that over time, is beyond float16's 65504; the averages are not."""
    x = torch.full((4, 1, 2, 96, 96), 100.0, dtype=dtype)
    head = ShortcutHead(2, 3, grid).to(dtype)
    branch = ShortcutBranch("point", head, 2, 3)
    logits = feed(branch, x, mode)
    assert logits.dtype == dtype
    due = head.linear(averages(x[0, :, :, :1, :1], grid))
    torch.testing.assert_close(logits, due, rtol=0.01, atol=0.5)

    many = torch.full((2000, 1, 2), 60.0, dtype=dtype)
    logits = feed(branch, many, "m")
    due = head.linear(averages(many[0], grid))
    torch.testing.assert_close(logits, due, rtol=0.01, atol=0.5)


def test_the_features_of_another_width_are_refused():
    branch = ShortcutBranch("stem.2", ShortcutHead(4, 3), 4, 3)
    for axes, shape in (
        ("T, N, C", (2, 5, 3)),
        ("T, N, C", (5, 4)),
        ("N, C", (5, 3)),
        ("N, C", (4,)),
    ):
        with pytest.raises(ValueError) as error:
            branch(torch.rand(shape), with_time="T" in axes)
        assert (
            f"'stem.2' was made for 4 channels, but its point gave {shape}, read as [{axes}, ...]"
            in str(error.value)
        )


# Heads of the user


class Recorder(nn.Module):
    """Ordinary layers, and a note of the shapes they were given."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 6), nn.GELU(),
            nn.Linear(6, classes),
        )  # fmt: skip
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return self.net(x)


class AveragingHead(SpikingHead):
    """Averages over time by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean(0)


def conv_head(channels: int, classes: int) -> nn.Module:
    """Convolutions, as in early exits; no module of SpikingJelly's, so it sees averages."""
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "per_step", "shapes"),
    [
        ("m", False, [(2, 8, 8, 8)]),
        ("m", True, [(4, 8, 8, 8)]),  # time and batch as one axis
        ("s", False, [(2, 8, 8, 8)] * 2),
        ("s", True, [(2, 8, 8, 8)] * 2),
    ],
)
def test_a_head_of_ordinary_layers_sees_averages(mode, per_step, shapes):
    model = conv_net_with(Recorder, mode)
    run(model, mode, per_step)
    assert head_of(model).shapes == shapes
    assert all(p.grad.any() for p in head_of(model).parameters())


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize(("mode", "shapes"), [("m", [(2, 2, 8, 8, 8)]), ("s", [(2, 8, 8, 8)] * 2)])
def test_a_head_with_neurons_sees_every_step(mode, per_step, shapes):
    model = conv_net_with(SpikingHead, mode)
    run(model, mode, per_step)
    head = head_of(model)
    assert head.shapes == shapes
    assert head.spike.step_mode == mode
    assert all(p.grad.any() for p in head.parameters())


@pytest.mark.parametrize(
    "head", [ShortcutHead, partial(ShortcutHead, grid=3), Recorder, SpikingHead]
)
@pytest.mark.parametrize("per_step", [False, True])
def test_any_head_agrees_in_both_step_modes(head, per_step):
    """But for `Recorder`, which is not linear: of averages in mode 'm', of steps in mode 's'."""
    losses, logits, gradients = [], [], []
    for mode in ("m", "s"):
        model = conv_net_with(head, mode)
        losses.append(run(model, mode, per_step).detach())
        logits.append(shortcut_logits(model)["1"].detach())
        gradients.append([p.grad for p in model.parameters()])
    if head is Recorder and not per_step:
        assert not torch.allclose(*logits, rtol=1e-6, atol=1e-7)
        return
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*logits)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_a_head_may_average_over_time_itself():
    plain, averaging = conv_net_with(SpikingHead, "m"), conv_net_with(AveragingHead, "m")
    torch.testing.assert_close(run(plain, "m"), run(averaging, "m"))
    with pytest.raises(ValueError, match=r"'1' gave \(2, 10\) where logits \[T, N, 10\] were due"):
        run(conv_net_with(AveragingHead, "m"), "m", per_step=True)


@both_modes
def test_a_convolutional_head_trains(mode):
    model = conv_net_with(conv_head, mode)
    parameters = list(head_of(model).parameters())
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    first = run(model, mode).item()
    for _ in range(20):
        optimizer.step()
        functional.reset_net(model)
        optimizer.zero_grad()
        last = run(model, mode).item()
    assert last < first - 0.5


def test_a_head_of_a_partial_with_options():
    def wide(channels: int, classes: int, *, width: int) -> nn.Module:
        return nn.Sequential(ShortcutHead(channels, width), nn.ReLU(), nn.Linear(width, classes))

    model = conv_net_with(partial(wide, width=32), "m")
    assert head_of(model)[2].in_features == 32
    run(model, "m")


def test_each_point_gets_a_head_of_its_own_channels():
    made: list[tuple[int, int]] = []

    def head(channels: int, classes: int) -> nn.Module:
        made.append((channels, classes))
        return ShortcutHead(channels, classes)

    wrap_with_shortcuts(features(), at=["1", "3", "5"], head=head)
    assert made == [(24, 10), (16, 10), (8, 10)]


class Wrong(nn.Module):
    """Gives what it is told to, made from the batch size."""

    def __init__(self, give: Callable[[int], object]) -> None:
        super().__init__()
        self.give = give

    def forward(self, x: Tensor) -> object:
        return self.give(len(x))


@both_modes
@pytest.mark.parametrize(
    ("give", "named"),
    [
        (lambda n: torch.rand(n, 9), r"\(2, 9\)"),
        (lambda n: torch.rand(n), r"\(2,\)"),
        (lambda n: torch.rand(n, 10, 1), r"\(2, 10, 1\)"),
        (lambda n: torch.rand(n, 2, 2, 10), r"\(2, 2, 2, 10\)"),
        (lambda n: (torch.rand(n, 10),), "tuple"),
        (lambda n: None, "NoneType"),
    ],
    ids=["classes", "no classes", "classes not last", "maps", "tuple", "nothing"],
)
def test_logits_of_a_wrong_shape_name_the_head(give, named, mode):
    model = conv_net_with(lambda channels, classes: Wrong(give), mode)
    with pytest.raises(ValueError, match=rf"head at '1' gave {named} where logits .* were due"):
        run(model, mode)


def test_heads_follow_a_change_of_step_mode():
    specimen = ZOO["conv_net"]
    model = conv_net_with(SpikingHead, "m")
    losses = []
    for mode in ("m", "s", "m"):
        functional.set_step_mode(model, mode)
        losses.append(run(model, mode).detach())
        functional.reset_net(model)
    torch.testing.assert_close(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])
    assert shortcut_branches(model)["1"].num_classes == specimen.classes
