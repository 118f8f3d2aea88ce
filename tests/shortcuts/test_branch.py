"""What heads compute, in both step modes, of every kind of features and of the user's own make."""

import copy
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from sj_shortcut import (
    ShortcutBranch,
    ShortcutHead,
    ShortcutLoss,
    shortcut_branches,
    shortcut_logits,
    shortcut_parameters,
    shortcuts_enabled,
    wrap_with_shortcuts,
)
from tests.nets.zoo import ZOO, conv_net, features, lif

sizes = st.integers(1, 5)
spaces = st.lists(st.integers(1, 8), max_size=3)  # none, [L], [H, W] or [D, H, W]
grids = st.integers(1, 4)
both_modes = pytest.mark.parametrize("mode", ["m", "s"])


def random_features(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def branch_of(head: nn.Module, channels: int, classes: int, mode: str) -> ShortcutBranch:
    branch = ShortcutBranch("point", head, channels, classes).double()
    branch.follow(mode)
    return branch


def feed(branch: ShortcutBranch, x: Tensor) -> None:
    """As the surgery's hooks do: features [T, N, C, ...], a step a call in mode 's'."""
    for part in [x] if branch.step_mode == "m" else x:
        branch.keep(branch(part))


# -------------------------------------------------------------------------------- the default head


def averages(x: Tensor, grid: int) -> Tensor:
    """Features ``[N, C, ...]`` averaged over each part of space, by hand: ``[N, C * parts]``."""
    if x.ndim == 5:
        x = x.mean(2)
    if grid == 1:
        return x.reshape(*x.shape[:2], -1).mean(2)
    if x.ndim == 2:
        return x.repeat_interleave(grid * grid, 1)
    counts = [grid, grid] if x.ndim == 4 else [grid * grid]
    for axis, count in enumerate(counts, 2):
        size = x.shape[axis]
        parts = [
            x.narrow(axis, i * size // count, -(-(i + 1) * size // count) - i * size // count)
            for i in range(count)
        ]
        x = torch.cat([part.mean(axis, keepdim=True) for part in parts], axis)
    return x.flatten(1)


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
    branch = branch_of(head, channels, classes, mode)
    x = random_features(steps, batch, channels, *space)
    feed(branch, x)
    average = torch.stack([averages(step, grid) for step in x]).mean(0)
    torch.testing.assert_close(branch.logits, head.linear(average))
    assert branch.step_logits is None


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
    branch = branch_of(head, channels, classes, mode)
    branch.per_step = True
    x = random_features(steps, batch, channels, *space)
    feed(branch, x)
    due = head.linear(torch.stack([averages(step, grid) for step in x]))
    torch.testing.assert_close(branch.step_logits, due)
    torch.testing.assert_close(branch.logits, due.mean(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("at_once", [True, False], ids=["m", "s"])
@pytest.mark.parametrize("grid", [1, 2, 3])
def test_the_average_of_a_large_map_does_not_overflow(dtype, at_once, grid):
    """Each step's sum, and that over time, is beyond float16's 65504; the averages are not."""
    x = torch.full((4, 1, 2, 96, 96), 100.0, dtype=dtype)
    head = ShortcutHead(2, 3, grid).to(dtype)
    branch = ShortcutBranch("point", head, 2, 3)
    branch.follow("m" if at_once else "s")
    feed(branch, x)
    assert branch.logits.dtype == dtype
    due = head.linear(averages(x[0, :, :, :1, :1], grid))
    torch.testing.assert_close(branch.logits, due, rtol=0.01, atol=0.5)

    many = torch.full((2000, 1, 2), 60.0, dtype=dtype)
    branch.reset()
    branch.follow("m")
    feed(branch, many)
    due = head.linear(averages(many[0], grid))
    torch.testing.assert_close(branch.logits, due, rtol=0.01, atol=0.5)


def test_the_features_of_another_width_are_refused():
    branch = ShortcutBranch("stem.2", ShortcutHead(4, 3), 4, 3)
    for mode, shape in (("m", (2, 5, 3)), ("m", (5, 4)), ("s", (5, 3)), ("s", (4,))):
        branch.follow(mode)
        with pytest.raises(ValueError, match=f"'stem.2' was made for 4 channels.*mode '{mode}'"):
            branch(torch.rand(shape))


# -------------------------------------------------------------------------------- heads of the user


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


class SpikingHead(nn.Module):
    """SpikingJelly's layers with a neuron: its logits depend on the order of the steps."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = layer.Conv2d(channels, 5, 3, padding=1)
        self.spike = lif()
        self.pool = layer.AdaptiveAvgPool2d(1)
        self.flatten = layer.Flatten()
        self.linear = layer.Linear(5, classes)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return self.linear(self.flatten(self.pool(self.spike(self.conv(x)))))


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


def conv_net_with(head: Callable[[int, int], nn.Module], mode: str) -> nn.Module:
    torch.manual_seed(0)
    model = conv_net()
    functional.set_step_mode(model, mode)
    return wrap_with_shortcuts(model, at="1", head=head)


def run(model: nn.Module, mode: str, per_step: bool = False, seed: int = 1) -> Tensor:
    """One training step without an optimizer; the loss is returned, gradients are left."""
    specimen = ZOO["conv_net"]
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), per_step=per_step)
    outputs = specimen.outputs(model, specimen.sequence(seed), mode)
    loss = criterion(outputs if per_step else outputs.mean(0), specimen.target())
    loss.backward()
    return loss


def head_of(model: nn.Module) -> nn.Module:
    return shortcut_branches(model)["1"].head


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


# ------------------------------------------------------------------------------------------- memory


@both_modes
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("head", [ShortcutHead, SpikingHead])
def test_reset_net_clears_logits_and_the_neurons_of_heads(mode, per_step, head):
    model = conv_net_with(head, mode)
    functional.reset_net(model)
    first = run(model, mode, per_step)
    functional.reset_net(model)
    branch = shortcut_branches(model)["1"]
    assert branch.logits is None
    assert branch.step_logits is None
    assert torch.equal(run(model, mode, per_step), first)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize(
    ("name", "mode", "at"),
    [("conv_net", "m", "1"), ("conv_net", "s", "1"), ("multi_step", "m", "0.2")],
)
def test_a_forward_after_a_loss_begins_anew_without_a_reset(name, mode, at, per_step):
    """Neurons go on, as the user wants it; logits of the batch before are not those of this one."""
    specimen = ZOO[name]
    model = wrap_with_shortcuts(specimen.make(mode), at=at)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), per_step=per_step)
    for module in model.modules():  # so that the second pass starts where the first did
        if isinstance(module, neuron.BaseNode):
            module.register_forward_pre_hook(start_afresh)
    logits = []
    for _ in range(2):
        outputs = specimen.outputs(model, specimen.sequence(), mode)
        criterion(outputs if per_step else outputs.mean(0), specimen.target())
        branch = shortcut_branches(model)[at]
        logits.append(branch.step_logits if per_step else branch.logits)
    assert torch.equal(logits[0], logits[1])


def start_afresh(module: nn.Module, args: object) -> None:
    module.reset()


def test_reset_net_reaches_heads_of_a_model_it_knew_before():
    """SpikingJelly 2.0.0 remembers, of each model, which modules it has to reset."""
    model = conv_net()
    functional.reset_net(model)
    wrap_with_shortcuts(model, at="1")
    model(torch.rand(2, 3, 8, 8))
    assert shortcut_branches(model)["1"].logits is not None
    functional.reset_net(model)
    assert shortcut_branches(model)["1"].logits is None


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda branch: pickle.loads(pickle.dumps(branch))]
)
def test_copies_of_a_branch_begin_without_logits(copied):
    branch = branch_of(ShortcutHead(4, 3), 4, 3, "m")
    feed(branch, random_features(2, 3, 4))
    twin = copied(branch)
    assert twin.logits is None
    assert branch.logits is not None
    feed(twin, random_features(2, 3, 4))
    assert torch.equal(twin.logits, branch.logits)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_heads_run_only_to_train(training, gradients):
    model = conv_net_with(ShortcutHead, "m").train(training)
    with torch.set_grad_enabled(gradients):
        model(ZOO["conv_net"].sequence())
    assert (shortcut_branches(model)["1"].logits is not None) == (training and gradients)


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


# ----------------------------------------------------------------------------- reading in eval mode


@both_modes
@pytest.mark.parametrize("head", [ShortcutHead, SpikingHead])
def test_logits_can_be_read_in_eval_mode(mode, head):
    specimen = ZOO["conv_net"]
    model = conv_net_with(head, mode)
    run(model, mode)
    trained = shortcut_logits(model)["1"].detach()
    functional.reset_net(model)

    model.eval()
    with torch.no_grad(), shortcuts_enabled(model):
        specimen.outputs(model, specimen.sequence(), mode)
        read = shortcut_logits(model)["1"]
    functional.reset_net(model)
    # Without batch norm or dropout, both modes of training compute the same.
    assert torch.equal(read, trained)


def test_the_accuracy_of_a_trained_head_can_be_read():
    specimen = ZOO["nested"]
    model = wrap_with_shortcuts(specimen.make("m"))
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    optimizer = torch.optim.Adam(shortcut_parameters(model), lr=0.1)
    for _ in range(30):
        loss = criterion(model(specimen.sequence()).mean(0), specimen.target())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(model)
    with torch.no_grad(), shortcuts_enabled(model.eval()):
        model(specimen.sequence())
        predicted = {name: o.argmax(1).tolist() for name, o in shortcut_logits(model).items()}
    assert predicted == {"0.1.2": [0, 1]}


def test_reading_leaves_nothing_on():
    model = conv_net_with(ShortcutHead, "m").eval()
    x = ZOO["conv_net"].sequence()
    branch = shortcut_branches(model)["1"]
    with torch.no_grad():
        with shortcuts_enabled(model):
            model(x)
        assert branch.logits is None
        functional.reset_net(model)
        model(x)
        assert branch.logits is None
    with pytest.raises(RuntimeError, match="'1' has no logits"):
        shortcut_logits(model)


def test_reading_leaves_nothing_on_after_an_error():
    model = conv_net_with(ShortcutHead, "m").eval()
    with pytest.raises(KeyError), shortcuts_enabled(model):
        model(ZOO["conv_net"].sequence())
        raise KeyError
    branch = shortcut_branches(model)["1"]
    assert not branch.always_on
    assert branch.logits is None


def test_readings_may_be_nested():
    model = conv_net_with(ShortcutHead, "m").eval()
    with torch.no_grad(), shortcuts_enabled(model):
        with shortcuts_enabled(model):
            pass
        model(ZOO["conv_net"].sequence())
        assert shortcut_logits(model)["1"].shape == (2, 10)
    assert not shortcut_branches(model)["1"].always_on


@both_modes
def test_several_batches_in_one_reading(mode):
    """Each batch begins anew after a reset_net, as the model itself does."""
    specimen = ZOO["conv_net"]
    model = conv_net_with(ShortcutHead, mode).eval()
    logits = []
    with torch.no_grad(), shortcuts_enabled(model):
        for seed in (1, 2, 1):
            specimen.outputs(model, specimen.sequence(seed), mode)
            logits.append(shortcut_logits(model)["1"])
            functional.reset_net(model)
    assert torch.equal(logits[0], logits[2])
    assert not torch.equal(logits[0], logits[1])


def test_training_goes_on_after_a_reading():
    specimen = ZOO["conv_net"]
    model, undisturbed = conv_net_with(ShortcutHead, "m"), conv_net_with(ShortcutHead, "m")
    with torch.no_grad(), shortcuts_enabled(model.eval()):
        model(specimen.sequence(5))
    functional.reset_net(model)
    assert torch.equal(run(model.train(), "m"), run(undisturbed, "m"))
