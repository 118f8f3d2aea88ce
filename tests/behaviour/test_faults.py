"""Faults: numbers that are none, errors and interrupts anywhere, threads, many repetitions.

What is asked each time: does it say so, does it do no other harm, and can one go on after it?
"""

import copy
import gc
import math
import os
import pickle
import random
import sys
import threading
import time
import warnings
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import sj_shortcut
from sj_shortcut import (
    ConstantSchedule,
    EvolutionarySchedule,
    ShortcutHead,
    ShortcutLoss,
    has_shortcuts,
    remove_shortcuts,
    set_backend,
    shortcut_branches,
    shortcut_logits,
    shortcut_parameters,
    shortcut_points,
    wrap_with_shortcuts,
)
from sj_shortcut.neurons.backend import has_cupy_backend
from tests.nets.small import CLASSES, Net, StatelessNet, gradients, images, labels, same, stage

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
HEADS = ["layer1.1", "layer2.1"]
both_modes = pytest.mark.parametrize("mode", ["m", "s"])
both_sums = pytest.mark.parametrize("combine", ["loss", "logits"])
per_step_or_not = pytest.mark.parametrize("per_step", [False, True])


@pytest.fixture(autouse=True)
def _every_warning_is_an_error() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def wrapped(kind: type[Net] = StatelessNet, mode: str = "m", **options: Any) -> Net:
    """The same weights at every call."""
    torch.manual_seed(0)
    return wrap_with_shortcuts(kind(mode), **options)


def batch(seed: int, size: int = 3) -> Tensor:
    torch.manual_seed(seed)
    return images(size)


def loss_of(model: nn.Module, coefficient: float = 1.0, **options: Any) -> ShortcutLoss:
    return ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(coefficient), **options)


def run(model: Net, x: Tensor) -> Tensor:
    """Logits [T, N, K]."""
    if model.fc.step_mode == "m":
        return model(x)
    return torch.stack([model(step) for step in x])


def backward(model: Net, criterion: ShortcutLoss, x: Tensor, *, reset: bool = True) -> Tensor:
    model.zero_grad()
    outputs = run(model, x)
    loss = criterion(outputs if criterion.per_step else outputs.mean(0), labels(x.shape[1]))
    loss.backward()
    if reset:
        functional.reset_net(model)
    return loss.detach()


def assert_trains_as(model: Net, other: Net, **options: Any) -> None:
    """One step of both is the same; the other is one that nothing has happened to."""
    results = [backward(net, loss_of(net, **options), batch(9)) for net in (model, other)]
    assert torch.equal(*results)
    assert same(gradients(model), gradients(other))


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


# ---------------------------------------------------------------------------- errors inside forward


class Failing:
    """A hook that fails at its nth call."""

    def __init__(self, at: int = 1) -> None:
        self.left = at

    def __call__(self, *args: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise MemoryError("out of memory")

    def put_on(self, module: nn.Module, when: str) -> None:
        if when == "before":
            module.register_forward_pre_hook(self)
        else:
            module.register_forward_hook(self, prepend=True)  # before the one that feeds a head


def own_modules(model: nn.Module) -> list[str]:
    names = [name for name, _ in model.named_modules()]
    return [name for name in names if "shortcut" not in name and "surrogate" not in name]


before_and_after = pytest.mark.parametrize("when", ["before", "after"])


@before_and_after
@both_modes
@pytest.mark.parametrize("kind", [Net, StatelessNet])
def test_a_batch_that_failed_anywhere_can_be_run_again(kind, mode, when):
    for name in own_modules(kind()):
        model = wrapped(kind, mode)
        Failing().put_on(model.get_submodule(name), when)
        with pytest.raises(MemoryError):
            backward(model, loss_of(model), batch(1))
        if kind is Net or mode == "s":
            functional.reset_net(model)
        assert_trains_as(model, wrapped(kind, mode))


def steps_with_failure(model: nn.Module, x: Tensor, on_error: str) -> Tensor:
    """Run in step mode 's'; a step that fails is run again, or left out."""
    outputs = []
    for step in x:
        try:
            outputs.append(model(step))
        except MemoryError:
            if on_error == "again":
                outputs.append(model(step))
    return torch.stack(outputs)


@per_step_or_not
@before_and_after
@pytest.mark.parametrize("on_error", ["again", "left out"])
def test_a_time_step_that_failed_counts_for_no_head(on_error, when, per_step):
    """Some heads have seen it then, and some have not."""
    x = torch.cat([batch(1), batch(2)])
    start = wrapped(mode="s")
    run(start, x)  # whose first batch was looked at, which takes longer than all that follows
    functional.reset_net(start)
    for failing in (0, 1, 3):
        kept = [i for i in range(len(x)) if on_error == "again" or i != failing]
        for name in own_modules(StatelessNet()):
            model, other = copy.deepcopy(start), copy.deepcopy(start)
            criteria = [loss_of(net, per_step=per_step) for net in (model, other)]
            Failing(failing + 1).put_on(model.get_submodule(name), when)
            outputs = steps_with_failure(model, x, on_error), run(other, x[kept])
            for criterion, logits in zip(criteria, outputs, strict=True):
                criterion(logits if per_step else logits.mean(0), labels()).backward()
            assert torch.equal(*outputs)
            assert same(shortcut_logits(model), shortcut_logits(other)), (name, failing)
            assert same(gradients(model), gradients(other)), (name, failing)


@both_modes
def test_a_head_that_failed_can_be_run_again(mode):
    model = wrapped(mode=mode)
    Failing().put_on(shortcut_branches(model)["layer2.1"].head, "before")
    with pytest.raises(MemoryError):
        run(model, batch(1))
    other = wrapped(mode=mode)  # with a hook as well, by which the head runs at its point
    shortcut_branches(other)["layer2.1"].head.register_forward_pre_hook(lambda module, args: None)
    assert_trains_as(model, other)


class FailsOnce(nn.CrossEntropyLoss):
    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise MemoryError("out of memory")
        return super().forward(logits, target)


@both_modes
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_criterion_that_failed_can_be_asked_again(at, mode):
    model, other = wrapped(mode=mode), wrapped(mode=mode)
    criterion = ShortcutLoss(model, FailsOnce(at))
    output = run(model, batch(9)).mean(0)
    with pytest.raises(MemoryError):
        criterion(output, labels())
    criterion(output, labels()).backward()
    backward(other, loss_of(other), batch(9))
    assert same(gradients(model), gradients(other))


def test_a_backward_that_failed_leaves_the_next_step_alone():
    model = wrapped(Net)
    output = model(batch(1))
    shortcut_logits(model)["layer1.1"].register_hook(Failing())
    with pytest.raises(MemoryError):
        loss_of(model)(output.mean(0), labels()).backward()
    functional.reset_net(model)
    assert_trains_as(model, wrapped(Net))


# ----------------------------------------------------------------------------------------- numbers


class FirstSample(ShortcutHead):
    """Gives no number for the first sample of a batch."""

    value = 0.0

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return torch.cat([logits[:1] * 0 + self.value, logits[1:]])


def spoil(model: nn.Module, what: str, value: float) -> None:
    """Let the head at layer2.1 give no number."""
    head = shortcut_branches(model)["layer2.1"].head
    if what == "sample":
        head.value = value
    else:
        with torch.no_grad():
            getattr(head.linear, what).view(-1)[0] = value


no_numbers = pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
anywhere = pytest.mark.parametrize("what", ["weight", "bias", "sample"])


@no_numbers
@anywhere
@both_sums
@per_step_or_not
@both_modes
def test_a_head_without_numbers_does_no_harm_once_its_coefficient_is_zero(
    mode, per_step, combine, what, value
):
    """It was spoilt while it still counted; the network was spared by skipping that step."""
    torch.manual_seed(0)
    bare = Net(mode)
    model = wrapped(Net, mode, head=FirstSample)
    model.load_state_dict(bare.state_dict(), strict=False)
    spoil(model, what, value)
    schedule = EvolutionarySchedule(2, hold=0.0, finish=0.5)
    criterion = ShortcutLoss(
        model, nn.CrossEntropyLoss(), schedule, combine=combine, per_step=per_step
    )
    if what == "sample" or mode == "m":  # a weight times a silent neuron is 0 in some steps
        assert not backward(model, criterion, batch(1)).isfinite()
    schedule.step()
    assert schedule.coefficient == 0

    optimizers = [torch.optim.AdamW(net.parameters(), lr=0.01) for net in (model, bare)]
    for seed in (2, 3):
        x = batch(seed)
        assert backward(model, criterion, x).isfinite()
        plain_step(bare, x, per_step)
        for optimizer in optimizers:
            optimizer.step()
    assert same(remove_shortcuts(model).state_dict(), bare.state_dict())


def plain_step(model: Net, x: Tensor, per_step: bool) -> None:
    model.zero_grad()
    outputs = run(model, x) if per_step else run(model, x).mean(0, keepdim=True)
    losses = [nn.functional.cross_entropy(logits, labels()) for logits in outputs]
    torch.stack(losses).mean(0).backward()
    functional.reset_net(model)


@no_numbers
@pytest.mark.parametrize("what", ["bias", "sample"])
@per_step_or_not
@both_modes
def test_a_head_without_numbers_is_named_and_leaves_the_others_alone(mode, per_step, what, value):
    model, other = (wrapped(Net, mode, head=FirstSample) for _ in range(2))
    spoil(model, what, value)
    criterion, sound = (loss_of(net, per_step=per_step) for net in (model, other))
    assert not backward(model, criterion, batch(1)).isfinite()
    backward(other, sound, batch(1))
    assert not criterion.parts["layer2.1"].isfinite()
    for name in ("main", "layer1.1"):
        assert torch.equal(criterion.parts[name], sound.parts[name])

    # Left out by its weight, it is as if it were not there.
    spared = loss_of(model, per_step=per_step, weights={"layer2.1": 0})
    backward(model, spared, batch(2))
    backward(other, loss_of(other, per_step=per_step, weights={"layer2.1": 0}), batch(2))
    assert same(gradients(model), gradients(other))


@both_sums
def test_training_goes_on_when_steps_without_numbers_are_skipped(combine):
    """What `torch.amp.GradScaler` does, whose scale overflows now and then."""
    model, other = wrapped(Net), wrapped(Net)
    criterion, sound = (loss_of(net, combine=combine) for net in (model, other))
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (model, other)]
    for seed in range(6):
        if seed % 2:
            functional.reset_net(model)
            model.zero_grad()
            outputs = model(batch(seed)).mean(0)
            (criterion(outputs, labels()) * 1e39).backward()  # overflows float32
            functional.reset_net(model)
            assert not all(p.grad.isfinite().all() for p in model.parameters())
            continue
        assert torch.equal(*[backward(net, loss, batch(seed))
                             for net, loss in ((model, criterion), (other, sound))])  # fmt: skip
        for optimizer in optimizers:
            optimizer.step()
    assert same(model.state_dict(), other.state_dict())


def without_numbers(module: nn.Module, args: object, output: Tensor) -> Tensor:
    return torch.where(output > 0, math.nan, output)


@both_modes
@pytest.mark.parametrize(("name", "coefficient"), [("layer1.1", 1.0), ("fc", 1.0), ("fc", 0.0)])
def test_the_networks_own_nan_is_not_hidden(name, coefficient, mode):
    """The neurons after layer1 swallow it, as comparing with NaN is false; the head does not."""
    model = wrapped(Net, mode)
    model.get_submodule(name).register_forward_hook(without_numbers, prepend=True)
    assert not backward(model, loss_of(model, coefficient), batch(1)).isfinite()


# ------------------------------------------------------------------------------------- batch sizes


@per_step_or_not
@both_modes
def test_batch_sizes_may_change_at_every_step_without_a_reset(mode, per_step):
    model = wrapped(mode=mode)
    criterion = loss_of(model, per_step=per_step)
    for size in (3, 1, 4, 1, 2, 3):
        other = wrapped(mode=mode)
        x = batch(size, size)
        due = backward(other, loss_of(other, per_step=per_step), x)
        assert torch.equal(backward(model, criterion, x, reset=False), due)
        assert same(gradients(model), gradients(other))


@per_step_or_not
@pytest.mark.parametrize(("first", "second"), [(3, 1), (1, 3), (3, 2)])
def test_a_batch_size_that_changes_within_a_sequence_is_an_error(first, second, per_step):
    """One sample and several would add up without a word."""
    model = wrapped(mode="s")
    criterion = loss_of(model, per_step=per_step)
    outputs = [model(batch(1, size)[0]) for size in (first, second)]
    small, large = sorted((first, second))
    with pytest.raises(RuntimeError) as error:
        shortcut_logits(model)
    assert str(error.value) == (
        f"the batch size at 'layer1.1' changed between time steps, which gather until "
        f"functional.reset_net(model) or a loss ({small} and {large} samples): reset the model "
        "before a new batch."
    )
    if small == 1:
        added = sum(outputs) / 2
        with pytest.raises(ValueError) as error:
            criterion(added.unsqueeze(0) if per_step else added, labels(large))
        assert str(error.value) == (
            f"the output has {large} samples, but the 2 forwards that it comes from gave the heads "
            f"{first} and {second}: pass the whole output, as the model gave it."
        )
    functional.reset_net(model)
    assert_trains_as(model, wrapped(mode="s"), per_step=per_step)


# ------------------------------------------------------------------------------------ silent heads


@per_step_or_not
@both_modes
def test_a_point_that_never_fires_trains_its_bias_alone(mode, per_step):
    model = wrapped(Net, mode)
    model.layer1[1].v_threshold = 1e6
    before = copy.deepcopy(model.state_dict())
    criterion = loss_of(model, per_step=per_step)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(3):
        assert backward(model, criterion, batch(seed)).isfinite()
        head = shortcut_branches(model)["layer1.1"].head.linear
        assert all(grad.isfinite().all() for grad in gradients(model).values())
        assert not head.weight.grad.any()
        assert head.bias.grad.any()
        optimizer.step()
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert not changed & {"layer1.0.weight", "layer1.1.shortcut_head.head.linear.weight"}
    assert {"fc.bias", "layer1.1.shortcut_head.head.linear.bias"} <= changed


class SilentHead(nn.Sequential):
    """Ends in neurons that never fire."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(layer.Linear(channels, classes), neuron.LIFNode(v_threshold=1e6))


@both_modes
def test_a_head_that_never_fires_gives_zeros_and_no_gradient(mode):
    torch.manual_seed(0)
    bare = Net(mode)
    model = wrapped(Net, mode, head=SilentHead)
    model.load_state_dict(bare.state_dict(), strict=False)
    total = backward(model, loss_of(model), batch(1))
    main = nn.functional.cross_entropy(run(bare, batch(1)).mean(0), labels())
    main.backward()
    torch.testing.assert_close(total, main.detach() + 2 * math.log(CLASSES))
    assert all(not p.grad.any() for p in shortcut_parameters(model))
    own = {name: p for name, p in gradients(model).items() if "shortcut" not in name}
    assert same(own, gradients(bare))


class Skips(Net):
    """Leaves a block out now and then, as stochastic depth does."""

    skip = False

    def __init__(self, step_mode: str = "m") -> None:
        super().__init__(step_mode)
        self.layer2 = stage(16, 16, StatelessNet.spikes)
        self.layer1 = stage(8, 16, StatelessNet.spikes)
        self.layer3 = stage(16, 6, StatelessNet.spikes)
        functional.set_step_mode(self, step_mode)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(x)
        return self.fc(self.layer3(x if self.skip else x + self.layer2(x)))


@per_step_or_not
@both_modes
@pytest.mark.parametrize("reset", [False, True])
def test_a_head_that_was_left_out_has_no_part_never_the_logits_of_before(reset, mode, per_step):
    model, other = (wrapped(Skips, mode, at=HEADS) for _ in range(2))
    criterion = loss_of(model, per_step=per_step)
    backward(model, criterion, batch(1), reset=reset)
    assert list(criterion.parts) == ["total", "main", *HEADS]
    model.skip = other.skip = True
    total = backward(model, criterion, batch(2))
    assert list(criterion.parts) == ["total", "main", "layer1.1"]
    weights = {"layer2.1": 0}
    assert total == backward(other, loss_of(other, per_step=per_step, weights=weights), batch(2))
    assert same(gradients(model), gradients(other))
    model.skip = other.skip = False
    functional.reset_net(model)
    assert_trains_as(model, other, per_step=per_step)


@both_modes
@pytest.mark.parametrize("combine", ["loss", "logits"])
def test_where_every_head_is_left_out_the_loss_is_the_plain_one(combine, mode):
    model = wrapped(Skips, mode, at=["layer2.1"])
    criterion = loss_of(model, combine=combine)
    backward(model, criterion, batch(1))
    with_head = gradients(model)
    model.skip = True
    total = backward(model, criterion, batch(2))
    assert list(criterion.parts) == ["total", "main"]
    bare = remove_shortcuts(copy.deepcopy(model))
    assert total == nn.functional.cross_entropy(run(bare, batch(2)).mean(0), labels())
    model.skip = False
    backward(model, criterion, batch(1))
    assert same(gradients(model), with_head)


# -------------------------------------------------------------------------------------- interrupts

PACKAGE = str(Path(sj_shortcut.__file__).parent)


def interrupted(action: Callable[[], object], line: int) -> bool:
    """Run `action`, with Ctrl-C when it comes to its nth line in the package; whether it did."""
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            count += 1
            if count == line:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def lines() -> Iterator[int]:
    """All of them, or a part that is another one in each test."""
    return iter(range(1, 100_000, 1 if DEEP else 67))


def state_of(model: nn.Module) -> tuple[bytes, ...]:
    generators = torch.get_rng_state().numpy(), np.random.get_state(), random.getstate()
    return tuple(map(pickle.dumps, (model, torch.is_grad_enabled(), *generators)))


def checkpoints_run_their_part_again() -> bool:
    """As they do but where a model is looked at."""
    runs = []
    x = torch.rand(2, requires_grad=True)
    checkpoint(lambda x: runs.append(1) or x.exp(), x, use_reentrant=False).sum().backward()
    return len(runs) == 2


def casts_are_kept() -> bool:
    """Whether autocast goes by weights that it cast before they were changed, as inside of it."""
    weight = torch.ones(1, 1, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        nn.functional.linear(weight, weight)
    with torch.no_grad():
        weight.zero_()
    with torch.autocast("cpu", torch.bfloat16):
        return bool(nn.functional.linear(weight, weight))


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("backend", [None, "torch"])
def test_an_interrupt_anywhere_in_wrapping_leaves_the_model_as_it_was(backend, example):
    model, x = Net(), images()
    before = state_of(model)
    options = {"backend": backend, "example_input": x if example else None}
    wrap = partial(wrap_with_shortcuts, model, **options)
    interrupts, casts = 0, casts_are_kept()
    for line in lines():
        if not interrupted(wrap, line):
            break
        interrupts += 1
        same_state = state_of(model) == before
        assert same_state, f"line {line}"
        assert casts_are_kept() == casts, f"line {line}"
    assert interrupts > 50
    assert list(shortcut_branches(model)) == HEADS
    assert checkpoints_run_their_part_again()
    remove_shortcuts(model)
    for last in range(line - 29, line):  # once all is in place, up to the very end
        if not interrupted(wrap, last):
            break
        assert not has_shortcuts(model), f"line {last}"


def skeleton(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What every module holds, but for the values of tensors."""
    plain = (bool, int, float, str, tuple, type(None))

    def outline(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: outline(item) for key, item in value.items()}
        return value if isinstance(value, plain) else type(value)

    return {name: outline(vars(module)) for name, module in model.named_modules()}


def test_an_interrupt_anywhere_in_removal_leaves_no_half_of_it():
    torch.manual_seed(0)
    bare = skeleton(Net())
    interrupts = 0
    for line in range(1, 100_000, 1 if DEEP else 3):
        model = wrapped(Net)
        if not interrupted(partial(remove_shortcuts, model), line):
            break
        interrupts += 1
        if has_shortcuts(model):
            assert_trains_as(model, wrapped(Net))
        else:
            assert skeleton(model) == bare
            names = [name for name, _ in model.named_modules()]
            assert not any("shortcut" in name for name in names)
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert interrupts > 50


@pytest.mark.skipif(not has_cupy_backend(), reason="2.0.0 has no backend to set")
def test_an_interrupt_anywhere_in_setting_the_backend_leaves_no_half_of_it():
    model = Net()
    neurons = [module for module in model.modules() if isinstance(module, neuron.BaseNode)]
    interrupts = 0
    for line in range(1, 100_000):
        for module in neurons:
            module._backend = "cupy"  # as on a machine with a GPU
        if not interrupted(partial(set_backend, model, "torch"), line):
            break
        interrupts += 1
        assert len({module.backend for module in neurons}) == 1
    assert interrupts > 20
    assert {module.backend for module in neurons} == {"torch"}


@both_modes
def test_an_interrupt_anywhere_in_training_spoils_nothing_after_a_reset(mode):
    model, other = wrapped(Net, mode), wrapped(Net, mode)
    criterion = loss_of(model)
    interrupts = 0
    for line in lines():
        if not interrupted(partial(backward, model, criterion, batch(1)), line):
            break
        interrupts += 1
        functional.reset_net(model)
        assert_trains_as(model, other)
    assert interrupts > 5


# ----------------------------------------------------------------------------------------- threads


def in_threads(*jobs: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)


def training(model: Net, steps: list[Tensor], wait: Callable[[], object]) -> Callable[[], None]:
    """Train on some batches; `wait` is called wherever another thread should come in between."""

    def job() -> None:
        criterion = loss_of(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for x in steps:
            wait()
            output = run(model, x).mean(0)
            wait()
            loss = criterion(output, labels())
            wait()
            model.zero_grad()
            loss.backward()
            wait()
            optimizer.step()
            functional.reset_net(model)

    return job


@both_modes
@pytest.mark.parametrize("kind", [Net, StatelessNet])
def test_two_copies_train_side_by_side_as_one_after_the_other(kind, mode):
    models = [wrapped(kind, mode) for _ in range(4)]
    data = [[batch(seed) for seed in range(start, start + 12)] for start in (0, 100)]
    barrier = threading.Barrier(2, timeout=1500)
    in_threads(*(training(models[i], data[i], barrier.wait) for i in range(2)))
    for i in range(2):
        training(models[2 + i], data[i], lambda: None)()
        assert same(models[i].state_dict(), models[2 + i].state_dict())


def test_wrapping_one_model_does_not_disturb_another_in_training():
    """All neurons share one surrogate function, on which a trial forward has its hooks too."""
    model, other = wrapped(Net), wrapped(Net)
    data = [batch(seed) for seed in range(60)]
    x, done = images(), threading.Event()

    def wrap_and_remove() -> None:
        net = Net()
        while not done.is_set():
            remove_shortcuts(wrap_with_shortcuts(net, example_input=x))

    def train() -> None:
        try:
            training(model, data, lambda: None)()
        finally:
            done.set()

    in_threads(train, wrap_and_remove)
    training(other, data, lambda: None)()
    assert same(model.state_dict(), other.state_dict())


def test_wrapping_while_another_thread_imports_fsdp(monkeypatch):
    """PyTorch does so when it is asked to compile; the module is there then, but empty yet."""
    monkeypatch.setitem(sys.modules, "torch.distributed.fsdp", ModuleType("half imported"))
    assert has_shortcuts(wrap_with_shortcuts(Net()))


# -------------------------------------------------------------------------------------- repetition


def test_a_thousand_cycles_grow_neither_in_memory_nor_in_time():
    """Each with an example; every tenth with a step of training and what tools keep of a model."""
    model, x = Net(), batch(1)
    times = array("d", bytes(8 * 1000))  # which does not grow itself
    objects, blocks = [], []
    for cycle in range(1000):
        start = time.perf_counter()
        wrap_with_shortcuts(model, example_input=x)
        times[cycle] = time.perf_counter() - start
        if cycle % 10 == 0:
            backward(model, loss_of(model), x)
            model.zero_grad()
            copy.deepcopy(model)
        remove_shortcuts(model)
        functional.reset_net(model)
        if cycle in (199, 999):
            gc.collect()
            objects.append(len(gc.get_objects()))
            blocks.append(sys.getallocatedblocks())
    assert objects[1] - objects[0] < 20
    assert blocks[1] - blocks[0] < 200
    # The fastest of many, as other programs may run besides.
    assert min(times[-300:]) < 2 * min(times[:300])


@both_modes
def test_a_thousand_steps_keep_nothing_alive(mode):
    model, x = wrapped(mode=mode), batch(1)
    criterion = loss_of(model)
    counts = []
    for number in range(1000):
        backward(model, criterion, x, reset=False)
        if number in (99, 999):
            gc.collect()
            counts.append(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))
    assert counts[1] <= counts[0]  # less where garbage of other tests has gone meanwhile
