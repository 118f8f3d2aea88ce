"""Slips and habits of users: each comes out right, or is told by an error or one warning of ours.

Right values are computed from ``shortcut_logits`` of the same forward by hand.
"""

import copy
import io
import pickle
import re
import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import functional, layer, monitor, neuron
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from sj_shortcut import (
    ConstantSchedule,
    EvolutionarySchedule,
    HandoverSchedule,
    ShortcutLoss,
    ShortcutSchedule,
    ShortcutWarning,
    gradient_flow,
    remove_shortcuts,
    shortcut_branches,
    shortcut_logits,
    shortcut_parameters,
    shortcut_points,
    shortcuts_enabled,
    summarize,
    wrap_with_shortcuts,
)
from tests.nets.small import CLASSES, Net, skip_unless_neurons_compile
from tests.ranks import on_ranks

SJ2 = not hasattr(functional, "set_backend")
CE = nn.CrossEntropyLoss()
N, T = 5, 3
Y = torch.arange(N) % CLASSES


@pytest.fixture(autouse=True)
def _seed_and_no_silence():
    """Habits must not warn: a warning of ours is an error where no test asks for one."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ShortcutWarning)
        yield


def images(batch: int = N, steps: int = T) -> Tensor:
    return 4 * torch.rand(steps, batch, 8)


def wrapped(step_mode: str = "m", **options) -> nn.Module:
    torch.manual_seed(0)
    return wrap_with_shortcuts(Net(step_mode), **options)


def loss_of(model: nn.Module, criterion=CE, coefficient: float = 1.0, **options) -> ShortcutLoss:
    return ShortcutLoss(model, criterion, ConstantSchedule(coefficient), **options)


def by_hand(model: nn.Module, output: Tensor, target, criterion=CE, pick=lambda x: x) -> Tensor:
    """The loss of an output and of the heads' logits of the last forward, each of weight 1."""
    heads = [criterion(pick(logits), target) for logits in shortcut_logits(model).values()]
    assert len(heads) == 2
    return criterion(pick(output), target) + sum(heads)


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr)


def train(model, criterion, optimizer, steps=10, x=None, epochs=1, after_epoch=lambda: None):
    x = images() if x is None else x
    for _ in range(epochs):
        for _ in range(steps):
            loss = criterion(model(x).mean(0), Y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            functional.reset_net(model)
        after_epoch()


def validate(model, criterion):
    model.eval()
    with torch.no_grad():
        criterion(model(images()).mean(0), Y)
    functional.reset_net(model)
    model.train()


def bodies(model: nn.Module) -> list[nn.Parameter]:
    heads = {id(p) for p in shortcut_parameters(model)}
    return [p for p in model.parameters() if id(p) not in heads]


# One forward, one loss


def test_two_forwards_before_two_losses():
    model, x = wrapped(), images()
    criterion = loss_of(model)
    outputs, expected = [], []
    for view in (x, x.flip(1)):
        outputs.append(model(view).mean(0))
        expected.append(by_hand(model, outputs[-1], Y))
        functional.reset_net(model)
    for output, value in zip(reversed(outputs), reversed(expected), strict=True):
        torch.testing.assert_close(criterion(output, Y), value)
    both = criterion(torch.cat(outputs[::-1]), torch.cat([Y, Y]))
    torch.testing.assert_close(both, sum(expected) / 2)


ORDER = torch.tensor([4, 2, 0, 1, 3])
PICKS = {
    "mask": lambda x: x[..., torch.tensor([True, False, True, True, False]), :],
    "order": lambda x: x[ORDER],
    "index_select": lambda x: x.index_select(-2, ORDER),
    "repeated rows": lambda x: x[[0, 0, 1]],
    "labelled first": lambda x: x[:3],
    "last": lambda x: x[-2:],
    "every second, then two": lambda x: x[::2][:2],
    "chunk": lambda x: x.chunk(2)[1],
    "split": lambda x: x.split([2, 3])[1],
    "tensor_split": lambda x: x.tensor_split(2)[0],
    "flip": lambda x: x.flip(0),
    "roll": lambda x: x.roll(-2, 0),
    "classes": lambda x: x[:, [3, 2, 1, 0]],
    "some classes": lambda x: x[:, :3],
}


@pytest.mark.parametrize("step_mode", ["m", "s"])
@pytest.mark.parametrize("name", PICKS)
def test_rows_and_classes_picked_from_an_output(name, step_mode):
    model, x, pick = wrapped(step_mode), images(), PICKS[name]
    raw = model(x) if step_mode == "m" else torch.stack([model(step) for step in x])
    output = raw.mean(0)
    target = torch.randint(3, (pick(output).shape[0],))
    expected = by_hand(model, output, target, pick=pick)
    loss = loss_of(model)(pick(output), target)
    torch.testing.assert_close(loss, expected)
    loss.backward()


@pytest.mark.parametrize("steps", [T, N])
def test_time_steps_picked_from_an_output_leave_rows_alone(steps):
    model, x = wrapped(), images(steps=steps)
    criterion = loss_of(model)
    raw = model(x)
    heads = sum(CE(logits, Y) for logits in shortcut_logits(model).values())
    for output in (raw[1:].mean(0), raw[-1], raw.flip(0).mean(0), sum(raw) / 3, raw.amax(0)):
        torch.testing.assert_close(criterion(output, Y), CE(output, Y) + heads)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: torch.cat([x[3:], x[:3]]),
        lambda x: 0.3 * x + 0.7 * x[ORDER],
        lambda x: x.gather(0, ORDER[:, None].expand(N, CLASSES)),
        lambda x: x.sort(0).values,
        lambda x: torch.stack([x[i] for i in ORDER.tolist()]),
    ],
    ids=["halves swapped", "mixed", "gather", "sort", "stack"],
)
def test_rows_mixed_beyond_recognition_are_told_and_the_advice_works(change):
    model = wrapped()
    output = model(images()).mean(0)
    with pytest.raises(RuntimeError, match="picked or moved .* pick in the criterion"):
        loss_of(model)(change(output), Y)
    expected = by_hand(model, output, Y, pick=change)
    inside = loss_of(model, lambda logits, target: CE(change(logits), target))
    torch.testing.assert_close(inside(output, Y), expected)


def test_labelled_weak_and_strong_views_in_one_batch():
    model, x = wrapped(), images(3 * N)
    criterion = loss_of(model)
    output = model(x).mean(0)
    first, (weak, strong) = output[:N], output[N:].chunk(2)
    pseudo = weak.detach().argmax(1)
    expected = by_hand(model, output, Y, pick=lambda o: o[:N])
    expected = expected + by_hand(model, output, pseudo, pick=lambda o: o[2 * N :])
    torch.testing.assert_close(criterion(first, Y) + criterion(strong, pseudo), expected)


def test_an_output_of_no_gradients_gets_the_plain_loss():
    model = wrapped()
    criterion = loss_of(model)
    criterion(model(images()).mean(0), Y).backward()
    functional.reset_net(model)
    with torch.no_grad():
        output = model(images()).mean(0)
    torch.testing.assert_close(criterion(output, Y), CE(output, Y))


@pytest.mark.parametrize("other", [Net, lambda: wrapped()], ids=["plain", "wrapped"])
def test_the_output_of_another_model_is_told(other):
    model, x = wrapped(), images()
    model(x)
    with pytest.raises(RuntimeError, match="another"):
        loss_of(model)(other()(x).mean(0), Y)


def saved_and_loaded(output: Tensor) -> Tensor:
    kept = io.BytesIO()
    torch.save(output, kept)
    kept.seek(0)
    return torch.load(kept)


@pytest.mark.parametrize(
    "cut",
    [
        lambda output: output.detach(),
        lambda output: torch.from_numpy(output.detach().numpy()),
        lambda output: output.detach().requires_grad_(),
        saved_and_loaded,
    ],
    ids=["detached", "through NumPy", "with gradients again", "saved"],
)
def test_an_output_that_was_cut_off_is_told(cut):
    model = wrapped()
    output = cut(model(images()).mean(0))
    with pytest.raises(RuntimeError, match="detached"):
        loss_of(model)(output, Y)


def test_two_losses_on_one_output_of_a_compiled_model_without_an_eager_forward_before():
    skip_unless_neurons_compile()
    model, x = wrapped(), images()
    expected = by_hand(model, model(x).mean(0), Y)
    other = wrapped()
    other.load_state_dict(model.state_dict())
    output = torch.compile(other, backend="aot_eager")(x).mean(0)
    criterion = loss_of(other)
    torch.testing.assert_close(criterion(output, Y) + criterion(output, Y), 2 * expected)


def test_time_steps_of_a_compiled_model_gather():
    skip_unless_neurons_compile()
    model, x = wrapped("s"), images()
    expected = by_hand(model, sum(map(model, x)) / T, Y)
    functional.reset_net(model)
    compiled = torch.compile(model, backend="aot_eager")
    criterion = loss_of(model)
    for _ in range(2):
        loss = criterion(sum(map(compiled, x)) / T, Y)
        torch.testing.assert_close(loss, expected)
        loss.backward()
        functional.reset_net(model)


def test_a_model_under_a_reentrant_checkpoint_is_told():
    model = wrapped()
    output = checkpoint(model, images().requires_grad_(), use_reentrant=True).mean(0)
    with pytest.raises(RuntimeError, match="use_reentrant"):
        loss_of(model)(output, Y)


def test_a_model_under_a_checkpoint_that_runs_it_again_trains_from_its_first_batch_on():
    models = [nn.Sequential(nn.Linear(8, 16), Smooth(), nn.Linear(16, CLASSES)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    x, losses = images()[0].requires_grad_(), []
    for i, model in enumerate(models):
        torch.manual_seed(1)
        wrap_with_shortcuts(model, at=["1"], neuron_types=(Smooth,))
        output = checkpoint(model, x, use_reentrant=False) if i else model(x)
        losses.append(loss_of(model)(output, Y))
        losses[-1].backward()
    torch.testing.assert_close(*losses)
    for one, other in zip(*[model.parameters() for model in models], strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("name", ["layer1", "layer2"])
def test_a_stage_in_eval_mode_is_told_and_no_old_logits_are_used(name):
    model, x = wrapped(), images()
    criterion = loss_of(model)
    criterion(model(x).mean(0), Y).backward()
    functional.reset_net(model)
    model.get_submodule(name).eval()
    output = model(x.flip(1)).mean(0)
    with pytest.warns(ShortcutWarning, match=f"'{name}.1' had no part .* eval mode"):
        loss = criterion(output, Y)
    heads = shortcut_logits(model)
    assert f"{name}.1" not in heads
    torch.testing.assert_close(loss, CE(output, Y) + sum(CE(v, Y) for v in heads.values()))


@pytest.mark.parametrize("own", [False, True])
def test_step_by_step_training(own):
    model, x = wrapped("s"), images()
    for step in x:
        output = model(step)
        if own:  # of the heads alone, whose backward pass goes not through the output
            sum(CE(logits, Y) for logits in shortcut_logits(model).values()).backward()
        else:
            loss = loss_of(model)(output, Y)
            torch.testing.assert_close(loss, by_hand(model, output, Y))
            loss.backward()
        functional.detach_net(model)


def test_own_loss_from_the_logits_of_heads():
    model, x = wrapped(), images()
    for _ in range(8):
        by_hand(model, model(x).mean(0), Y).backward()
        functional.reset_net(model)


def test_the_loss_at_every_second_step_and_before_a_plain_warm_up():
    model = wrapped()
    criterion, optimizer = loss_of(model), sgd(model)
    for i in range(12):
        train(model, criterion if i % 2 else CE, optimizer, steps=1)


def test_adversarial_training_in_training_mode():
    model, x = wrapped(), images()
    criterion, optimizer = loss_of(model), sgd(model)
    for _ in range(2):
        attack = x
        for _ in range(7):
            attack = attack.detach().requires_grad_()
            (grad,) = torch.autograd.grad(criterion(model(attack).mean(0), Y), attack)
            functional.reset_net(model)
            attack = attack + 0.01 * grad.sign()
        train(model, criterion, optimizer, steps=1, x=attack.detach())


def test_a_teacher_that_follows_its_student_needs_no_loss():
    model = wrapped()
    teacher = copy.deepcopy(model)
    criterion, optimizer = loss_of(model), sgd(model)
    for _ in range(12):
        goal = teacher(images()).mean(0).detach()
        functional.reset_net(teacher)
        output = model(images()).mean(0)
        optimizer.zero_grad()
        (criterion(output, Y) + F.mse_loss(output, goal)).backward()
        optimizer.step()
        functional.reset_net(model)
        with torch.no_grad():
            for mean, own in zip(teacher.parameters(), model.parameters(), strict=True):
                mean.lerp_(own, 0.1)


def test_a_generator_before_the_wrapped_model_keeps_its_graph():
    model, generator = wrapped(), nn.Linear(8, 8)
    loss_of(model)(model(generator(images())).mean(0), Y).backward()
    assert generator.weight.grad.abs().sum() > 0


class TwoTasks(Net):
    """Two outputs of classes, of which heads can be for one alone."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.tasks = nn.ModuleList(layer.Linear(6, width, step_mode="m") for width in widths)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.layer3(self.layer2(self.layer1(x)))
        return tuple(task(x) for task in self.tasks)


@pytest.mark.parametrize(("widths", "task"), [((4, 7), 1), ((7, 4), 1), ((1, 4), 0)])
def test_the_output_of_another_task_is_told_and_the_advice_works(widths, task):
    x = images()
    target = Y % widths[task]
    model = wrap_with_shortcuts(TwoTasks(*widths))
    with pytest.raises(ValueError, match="the right num_classes= to wrap_with_shortcuts"):
        loss_of(model)(model(x)[task].mean(0), target)
    model = wrap_with_shortcuts(TwoTasks(*widths), num_classes=widths[task])
    output = model(x)[task].mean(0)
    torch.testing.assert_close(loss_of(model)(output, target), by_hand(model, output, target))


# Heads that do not train


@pytest.mark.parametrize(
    "optimizer", ["SGD", "AdamW", "Adagrad", "fused", "through data", "classifier alone"]
)
def test_an_optimizer_without_the_heads_is_told(optimizer):
    model = wrapped()
    own = bodies(model)
    made = {
        "fused": lambda: torch.optim.Adam(own, fused=True),
        "through data": lambda: WritesThroughData(own),
        "classifier alone": lambda: torch.optim.SGD(model.fc.parameters(), 0.1),
    }.get(optimizer, lambda: getattr(torch.optim, optimizer)(own, lr=0.1))()
    with pytest.warns(ShortcutWarning, match="optimizer does not hold the shortcut heads:"):
        train(model, loss_of(model), made)


def test_a_later_optimizer_without_the_heads_is_told():
    model = wrapped()
    criterion = loss_of(model)
    train(model, criterion, sgd(model))
    with pytest.warns(ShortcutWarning, match="optimizer does not hold the shortcut heads:"):
        train(model, criterion, torch.optim.SGD(bodies(model), 0.1), steps=16)


def test_an_optimizer_without_one_head_is_told_which():
    model = wrapped()
    left_out = {id(p) for p in shortcut_branches(model)["layer1.1"].parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if id(p) not in left_out], 0.1)
    with pytest.warns(ShortcutWarning, match="does not hold the shortcut heads at 'layer1.1':"):
        train(model, loss_of(model), optimizer)


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "Adagrad", "Rprop", "fused", "foreach", "data", "heads alone"]
)
def test_an_optimizer_with_the_heads_is_not_told(name):
    model = wrapped()
    if name == "heads alone":
        for parameter in bodies(model):
            parameter.requires_grad_(False)
    made = {
        "fused": lambda p: torch.optim.Adam(p, fused=True),
        "foreach": lambda p: torch.optim.SGD(p, 0.1, foreach=True),
        "data": lambda p: WritesThroughData(p),
        "heads alone": lambda p: torch.optim.SGD(shortcut_parameters(model), 0.1),
    }.get(name, lambda p: getattr(torch.optim, name)(p, lr=0.01))
    train(model, loss_of(model), made([p for p in model.parameters() if p.requires_grad]), 20)


class WritesThroughData(torch.optim.Optimizer):
    """Writes around the version counters of parameters, as some optimizers do."""

    def __init__(self, parameters, lr=0.1):
        super().__init__(parameters, {"lr": lr})

    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.data.add_(parameter.grad, alpha=-group["lr"])


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_learning_rate_of_0_for_the_heads_is_told(optimizer):
    model = wrapped()
    groups = [{"params": bodies(model)}, {"params": list(shortcut_parameters(model)), "lr": 0.0}]
    with pytest.warns(ShortcutWarning, match="is their learning rate 0"):
        train(model, loss_of(model), getattr(torch.optim, optimizer)(groups, lr=0.1))


@pytest.mark.parametrize("lr", [1e-8, 1e-3])
def test_a_small_learning_rate_for_the_heads_is_not_told(lr):
    model = wrapped()
    groups = [{"params": bodies(model)}, {"params": list(shortcut_parameters(model)), "lr": lr}]
    train(model, loss_of(model), torch.optim.Adam(groups, lr=0.1), steps=40)


def test_heads_with_an_optimizer_of_their_own_that_steps_rarely_are_not_told():
    model = wrapped()
    criterion, own = loss_of(model), torch.optim.SGD(bodies(model), 0.1)
    of_heads = torch.optim.SGD(shortcut_parameters(model), 0.1)
    for _ in range(10):
        train(model, criterion, own, steps=10)
        of_heads.step()
        of_heads.zero_grad()


def test_heads_in_an_optimizer_that_never_steps_are_told():
    model = wrapped()
    of_heads = torch.optim.SGD(shortcut_parameters(model), 0.1)
    with pytest.warns(ShortcutWarning, match="optimizer does not hold the shortcut heads"):
        train(model, loss_of(model), torch.optim.SGD(bodies(model), 0.1), steps=600)
    of_heads.zero_grad()


def test_steps_that_move_nothing_are_no_slip():
    """Warm-up from a learning rate of 0, skipped steps, gradients that accumulate."""
    model = wrapped()
    criterion, optimizer = loss_of(model), sgd(model, 0.0)
    train(model, criterion, optimizer, steps=6)
    for i in range(24):
        criterion(model(images()).mean(0), Y).backward()
        functional.reset_net(model)
        if i % 12 == 11:
            optimizer.step()
            optimizer.zero_grad()


def test_frozen_heads_are_told():
    model = wrapped()
    for parameter in shortcut_parameters(model):
        parameter.requires_grad_(False)
    with pytest.warns(ShortcutWarning, match="frozen"):
        loss_of(model)(model(images()).mean(0), Y)


def test_heads_frozen_while_they_train_are_told():
    model = wrapped()
    criterion, optimizer = loss_of(model), sgd(model)
    train(model, criterion, optimizer, steps=1)
    for parameter in shortcut_parameters(model):
        parameter.requires_grad_(False)
    with pytest.warns(ShortcutWarning, match="frozen"):
        train(model, criterion, optimizer)


def test_heads_frozen_with_all_below_them_are_told():
    model = wrapped()
    model.requires_grad_(False)
    model.fc.requires_grad_(True)
    output = model(images()).mean(0)
    with pytest.raises(RuntimeError, match="heads and all layers below them are frozen"):
        loss_of(model)(output, Y)
    for parameter in shortcut_parameters(model):
        parameter.requires_grad_(True)
    functional.reset_net(model)
    with pytest.warns(ShortcutWarning, match="no layer below the shortcut head"):
        loss_of(model)(model(images()).mean(0), Y).backward()
    model.requires_grad_(True)  # as the message says
    functional.reset_net(model)
    loss_of(model)(model(images()).mean(0), Y).backward()


def test_a_discriminator_that_is_frozen_for_its_generator_is_not_told():
    model, generator = wrapped(), nn.Linear(8, 8)
    criterion, optimizer = loss_of(model), sgd(model)
    for _ in range(6):
        for trains in (True, False):
            model.requires_grad_(trains)
            x = generator(images())
            optimizer.zero_grad()
            criterion(model(x.detach() if trains else x).mean(0), Y).backward()
            functional.reset_net(model)
            if trains:
                optimizer.step()
    assert generator.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_heads_that_no_loss_uses_are_told(step_mode):
    model, x = wrapped(step_mode), images()
    optimizer = sgd(model)
    with pytest.warns(ShortcutWarning, match="no loss has used them"):
        for _ in range(8):
            output = model(x).mean(0) if step_mode == "m" else sum(map(model, x)) / T
            CE(output, Y).backward()
            optimizer.step()
            functional.reset_net(model)


@pytest.mark.skipif(not SJ2, reason="neurons of 0.0.0.0.14 have no gradient in eval mode")
def test_a_loss_in_eval_mode_is_told_where_parameters_are_trained():
    model, x = wrapped().eval(), images()
    criterion = loss_of(model)
    attack = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(criterion(model(attack).mean(0), Y), attack)
    functional.reset_net(model)
    criterion(model(attack).mean(0), Y).backward()  # the input's gradient again
    assert torch.equal(attack.grad, grad)
    functional.reset_net(model)
    torch.autograd.grad(criterion(model(x).mean(0), Y), bodies(model))  # a measurement
    functional.reset_net(model)
    with pytest.warns(ShortcutWarning, match="eval mode was differentiated"):
        criterion(model(x).mean(0), Y).backward()


def test_fine_tuning_in_eval_mode_is_told():
    model = wrapped().eval()
    with pytest.warns(ShortcutWarning, match="eval mode was differentiated"):
        train(model, loss_of(model), sgd(model), steps=1)


@pytest.mark.skipif(not SJ2, reason="neurons of 0.0.0.0.14 have no gradient in eval mode")
@pytest.mark.parametrize("updates", [False, True])
def test_a_loss_in_eval_mode_after_training_is_told_if_it_trains(updates):
    """Fisher information is measured by the gradients of such losses, one after the other."""
    model = wrapped()
    criterion, optimizer = loss_of(model), sgd(model)
    train(model, criterion, optimizer)
    model.eval()
    fisher = [torch.zeros_like(p) for p in bodies(model)]

    def some_batches():
        for _ in range(3):
            model.zero_grad()
            criterion(model(images()).mean(0), Y).backward()
            functional.reset_net(model)
            for mean, p in zip(fisher, bodies(model), strict=True):
                mean += p.grad.square()
            if updates:
                optimizer.step()

    if updates:
        with pytest.warns(ShortcutWarning, match="taken in eval mode was differentiated"):
            some_batches()
    else:
        some_batches()
        assert all(mean.any() for mean in fisher[:1])
        train(model.train(), criterion, optimizer)


def test_validation_in_eval_mode_without_no_grad():
    model = wrapped()
    criterion = loss_of(model)
    model.eval()
    criterion(model(images()).mean(0), Y)
    functional.reset_net(model)
    model.train()
    criterion(model(images()).mean(0), Y).backward()


@pytest.mark.parametrize("mode", ["no_grad", "inference"])
def test_heads_are_read_without_gradients_before_any_training(mode):
    model, x = wrapped().eval(), images()
    expected = None
    context = torch.no_grad() if mode == "no_grad" else torch.inference_mode()
    with context, shortcuts_enabled(model):
        for _ in range(2):
            model(x)
            seen = torch.stack(list(shortcut_logits(model).values()))
            assert expected is None or torch.equal(seen, expected)
            expected = seen.clone()
            functional.reset_net(model)
    model.train()
    loss_of(model)(model(x).mean(0), Y).backward()


class Scaled(Net):
    """Its gradients want what its training loop computes after the forward, as some scripts do."""

    scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer1(x)
        if y.requires_grad:
            y.register_hook(lambda grad: torch.mul(grad, self.scale))
        return self.fc(self.layer3(self.layer2(y)))


def test_where_no_look_can_be_had_the_layout_that_the_error_asks_for_works():
    model = wrap_with_shortcuts(Scaled())
    with pytest.raises(ValueError, match="pass layout=|with layout="):
        model(images())
    model = wrap_with_shortcuts(Scaled(), layout="TNC...")
    output = model(images())
    model.scale = torch.ones(())
    expected = by_hand(model, output.mean(0), Y)
    loss = loss_of(model)(output.mean(0), Y)
    torch.testing.assert_close(loss, expected)
    loss.backward()


# Criteria


def one_hot() -> Tensor:
    return F.one_hot(Y, CLASSES).float()


def log_of_softmax(x: Tensor) -> Tensor:
    return (x.softmax(-1) + 1e-8).log()


def evidence(output: Tensor, target: Tensor) -> Tensor:
    alpha = output + 1
    return (target * (alpha.sum(-1, keepdim=True).log() - alpha.log())).sum(-1).mean()


KINDS: dict[str, tuple[Callable, Callable, Callable]] = {
    "NLLLoss": (lambda x: x.log_softmax(-1), nn.NLLLoss(), lambda: Y),
    "nll_loss": (lambda x: x.log_softmax(-1), lambda o, t: F.nll_loss(o, t), lambda: Y),
    "log of softmax": (log_of_softmax, lambda o, t: F.nll_loss(o, t), lambda: Y),
    "softmax": (lambda x: x.softmax(-1), lambda o, t: F.mse_loss(o, t), one_hot),
    "BCELoss": (torch.sigmoid, nn.BCELoss(), one_hot),
    "logsigmoid": (F.logsigmoid, lambda o, t: -(o * t).mean(), one_hot),
    "KLDivLoss": (lambda x: x.log_softmax(-1), nn.KLDivLoss(reduction="sum"), one_hot),
    "evidence": (F.softplus, evidence, one_hot),
    "relu": (torch.relu, evidence, one_hot),
    "rates": (torch.exp, nn.PoissonNLLLoss(log_input=False), one_hot),
    "tanh": (torch.tanh, lambda o, t: F.mse_loss(o, 2 * t - 1), one_hot),
    "logits": (lambda x: x, lambda o, t: F.multilabel_soft_margin_loss(o, t), one_hot),
    "no reduction": (lambda x: x, nn.CrossEntropyLoss(reduction="none"), lambda: Y),
    "two parts": (
        lambda x: x,
        lambda o, t: 0.3 * CE(o, t[0]) + CE(o, t[1]),
        lambda: (Y, 3 - Y % 3),
    ),
    "dict": (lambda x: x, lambda o, t: CE(o, t["class"]), lambda: {"class": Y}),
    "none": (lambda x: x, lambda o, t: o.square().mean(), lambda: None),
}


@pytest.mark.parametrize("name", KINDS)
def test_heads_are_of_the_kind_that_the_criterion_is_given(name):
    activation, criterion, target = KINDS[name]
    model = wrapped()
    raw = model(images())
    heads = shortcut_logits(model).values()
    for output in (activation(raw.mean(0)), activation(raw).mean(0)):
        expected = criterion(output, target())
        expected = expected + sum(criterion(activation(logits), target()) for logits in heads)
        total = loss_of(model, criterion)(output, target())
        torch.testing.assert_close(total, expected)
    total.sum().backward()


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", ["NLLLoss", "nll_loss", "softmax", "BCELoss", "logsigmoid"])
def test_sums_of_what_is_no_logits_are_told(name, inside):
    activation, criterion, target = KINDS[name]
    torch.manual_seed(0)
    model = Activated(activation if inside else lambda x: x, False)
    total = loss_of(wrap_with_shortcuts(model), criterion, 0.1, combine="logits")
    output = model(images())
    with pytest.warns(ShortcutWarning, match=r"with an output of (log-)?probabilities"):
        total(output if inside else activation(output), target())


class Activated(Net):
    """A network that ends in an activation, at every time step or after them."""

    def __init__(self, activation: Callable, first: bool) -> None:
        super().__init__()
        self.activation, self.first = activation, first

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return self.activation(y).mean(0) if self.first else self.activation(y.mean(0))


@pytest.mark.parametrize("price", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_heads_are_of_the_kind_that_the_model_ends_in(name, first, price):
    activation, criterion, target = KINDS[name]
    model = wrap_with_shortcuts(Activated(activation, first))
    total = loss_of(model, criterion, price=price)
    output = model(images())
    heads = shortcut_logits(model).values()
    expected = criterion(output, target())
    expected = expected + sum(criterion(activation(logits), target()) for logits in heads)
    torch.testing.assert_close(total(output, target()), expected)  # a first batch has no price


def test_heads_are_of_the_kind_that_a_model_in_ddp_ends_in(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = wrap_with_shortcuts(Activated(lambda x: x.log_softmax(-1), False))
        parallel = nn.parallel.DistributedDataParallel(model)
        output = parallel(images())
        heads = [logits.log_softmax(-1) for logits in shortcut_logits(model).values()]
        expected = sum(F.nll_loss(logits, Y) for logits in (output, *heads))
        criterion = loss_of(parallel, lambda o, t: F.nll_loss(o, t))
        torch.testing.assert_close(criterion(output, Y), expected)
    finally:
        torch.distributed.destroy_process_group()


def test_another_criterion_may_be_set_later():
    model = wrap_with_shortcuts(Activated(lambda x: x.softmax(-1), False))
    criterion = loss_of(model, nn.CrossEntropyLoss())
    criterion(model(images()), Y)
    criterion.criterion = nn.MSELoss()
    functional.reset_net(model)
    output = model(images())
    heads = shortcut_logits(model).values()
    expected = F.mse_loss(output, one_hot()) + sum(
        F.mse_loss(logits.softmax(-1), one_hot()) for logits in heads
    )
    torch.testing.assert_close(criterion(output, one_hot()), expected)


def test_weights_that_are_set_later_are_by_name():
    model = wrapped()
    criterion = loss_of(model)
    criterion.weights["layer1.1"] = 0.5
    output = model(images()).mean(0)
    one, two = shortcut_logits(model).values()
    expected = CE(output, Y) + 0.5 * CE(one, Y) + CE(two, Y)
    torch.testing.assert_close(criterion(output, Y), expected)
    criterion.weights = [0.5, 1.0]
    with pytest.raises(TypeError, match=r"criterion.weights was set to .*\['layer1.1'\] = 0.5"):
        criterion(output, Y)


class Gated(Net):
    """Its output is logits, though sigmoids are close behind it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.gate = nn.Linear(CLASSES, CLASSES)
        self.decay = nn.Parameter(torch.zeros(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if self.kind == "gate":
            return (y * torch.sigmoid(self.gate(y))).mean(0)
        if self.kind == "attention":
            return (y * torch.softmax(self.gate(y), 0)).sum(0)
        potential = torch.zeros_like(y[0])
        for step in y:
            potential = potential * torch.sigmoid(self.decay) + step
        return potential


@pytest.mark.parametrize("kind", ["gate", "attention", "leaky readout"])
def test_a_gate_is_no_activation(kind):
    model = wrap_with_shortcuts(Gated(kind))
    output = model(images())
    criterion = lambda o, t: F.cross_entropy(o, t)  # noqa: E731, a class would be known
    expected = by_hand(model, output, Y, criterion)
    torch.testing.assert_close(loss_of(model, criterion)(output, Y), expected)


@pytest.mark.parametrize("criterion", [nn.MSELoss(), nn.BCEWithLogitsLoss(), nn.HuberLoss()])
def test_classes_for_a_criterion_of_numbers_are_told_though_they_would_broadcast(criterion):
    model = wrapped()
    output = model(images(CLASSES)).mean(0)
    with pytest.raises(ValueError, match="one-hot"):
        loss_of(model, criterion)(output, torch.arange(CLASSES).float())


class Autoencoder(Net):
    """Gives back what it takes, in as many features."""

    def __init__(self, step_mode: str = "m") -> None:
        super().__init__(step_mode)
        self.fc = layer.Linear(6, 8, step_mode=step_mode)


@pytest.mark.parametrize("kind", ["itself", "its rate", "flattened", "black and white"])
@pytest.mark.parametrize("criterion", [nn.MSELoss(), F.l1_loss])
def test_a_model_that_reconstructs_its_input_is_told(kind, criterion):
    x = images()
    if kind != "its rate":
        x = x[0]
    is_image = kind in ("flattened", "black and white")
    shown = x.reshape(N, 2, 4).clone() if is_image else x
    model = (
        nn.Sequential(nn.Flatten(-2), Autoencoder("s"))
        if is_image
        else (Autoencoder("m" if kind == "its rate" else "s"))
    )
    wrap_with_shortcuts(model)
    output = model(shown)
    target = {"itself": x, "its rate": x.mean(0), "flattened": shown.flatten(1)}.get(
        kind, (x > 2).float()
    )
    with pytest.warns(ShortcutWarning, match="reconstructs its input"):
        loss_of(model, criterion)(output if output.ndim == 2 else output.mean(0), target)


@pytest.mark.parametrize("kind", ["classes", "one-hot", "several-hot", "smoothed", "-1 and 1"])
def test_a_classifier_with_as_many_classes_as_features_is_not_told(kind):
    model = wrap_with_shortcuts(Autoencoder())
    output = model(images()).mean(0)
    hot = F.one_hot(Y, 8).float()
    target, criterion = {
        "classes": (Y, CE),
        "one-hot": (hot, nn.MSELoss()),
        "several-hot": ((hot + hot.flip(1)).clamp(max=1), nn.BCEWithLogitsLoss()),
        "smoothed": (0.9 * hot + 0.1 / 8, CE),
        "-1 and 1": (2 * hot - 1, nn.MSELoss()),
    }[kind]
    loss_of(model, criterion)(output, target)


def test_a_model_that_reconstructs_its_input_is_not_told_where_its_width_was_given():
    x = images()[0]
    model = wrap_with_shortcuts(Autoencoder("s"), num_classes=8)
    loss_of(model, nn.MSELoss())(model(x), x)


# Schedules


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("schedule", [lambda: EvolutionarySchedule(1000), HandoverSchedule])
def test_a_schedule_stepped_once_a_batch_is_told(schedule, accumulate):
    model = wrapped()
    criterion, optimizer = ShortcutLoss(model, CE, schedule()), sgd(model)
    with pytest.warns(ShortcutWarning, match="stepped after each single batch"):
        for _ in range(8):
            for _ in range(accumulate):
                criterion(model(images()).mean(0), Y).backward()
                functional.reset_net(model)
            optimizer.step()
            optimizer.zero_grad()
            criterion.schedule.step()


@pytest.mark.parametrize("step_mode", ["m", "s"])
@pytest.mark.parametrize("schedule", [lambda: EvolutionarySchedule(40), HandoverSchedule])
def test_epochs_of_all_data_at_once_are_not_told(schedule, step_mode):
    model, x = wrapped(step_mode), images()
    criterion, optimizer = ShortcutLoss(model, CE, schedule()), sgd(model)
    for _ in range(12):
        output = model(x).mean(0) if step_mode == "m" else sum(map(model, x)) / T
        optimizer.zero_grad()
        criterion(output, Y).backward()
        optimizer.step()
        functional.reset_net(model)
        criterion.schedule.step()


def test_a_schedule_stepped_beyond_its_end_is_told():
    schedule = EvolutionarySchedule(3)
    with pytest.warns(ShortcutWarning, match=re.escape("of 3 epochs")):
        for _ in range(5):
            schedule.step()


def test_a_schedule_that_follows_batches_within_epochs_is_not_told():
    model = wrapped()
    criterion, optimizer = ShortcutLoss(model, CE, EvolutionarySchedule(3)), sgd(model)
    for epoch in range(3):
        for batch in range(6):
            criterion.schedule.step(epoch + batch / 6)
            train(model, criterion, optimizer, steps=1)
    criterion.schedule.step(3)


def epochs_without_a_step(schedule: ShortcutSchedule) -> None:
    model = wrapped()
    criterion, optimizer = ShortcutLoss(model, CE, schedule), sgd(model)
    for _ in range(11):
        train(model, criterion, optimizer, steps=3)
        validate(model, criterion)


@pytest.mark.parametrize("schedule", [lambda: EvolutionarySchedule(9), HandoverSchedule])
def test_a_schedule_never_stepped_is_told(schedule):
    with pytest.warns(ShortcutWarning, match="never stepped"):
        epochs_without_a_step(schedule())


@pytest.mark.parametrize("validates", [False, True])
def test_a_schedule_not_stepped_any_more_is_told(validates):
    model = wrapped()
    criterion, optimizer = ShortcutLoss(model, CE, EvolutionarySchedule(30, hold=0.0)), sgd(model)
    with pytest.warns(ShortcutWarning, match="not stepped any more .* as at epoch 1:"):
        for epoch in range(7):
            train(model, criterion, optimizer, steps=3)
            if validates:
                validate(model, criterion)
            if epoch == 0:
                criterion.schedule.step()


def test_epochs_that_grow_longer_are_not_told():
    model = wrapped()
    criterion, optimizer = ShortcutLoss(model, CE, EvolutionarySchedule(30, hold=0.0)), sgd(model)
    for steps in (2, 4, 8, 16, 3):
        train(model, criterion, optimizer, steps=steps)
        criterion.schedule.step()


@pytest.mark.parametrize("often", [3, 5])
def test_several_evaluations_an_epoch_are_not_told(often):
    model = wrapped()
    criterion, optimizer = ShortcutLoss(model, CE, EvolutionarySchedule(30, hold=0.0)), sgd(model)
    for epoch in range(4):
        for _ in range(often if epoch else 3):
            train(model, criterion, optimizer, steps=2)
            validate(model, criterion)
        train(model, criterion, optimizer, steps=2)
        criterion.schedule.step()


class Half(ShortcutSchedule):
    def __call__(self, epoch: float) -> float:
        return 0.5


class CountsBatches(ShortcutSchedule):
    batches = 0

    def observe(self, losses) -> None:
        self.batches += 1

    def __call__(self, epoch: float) -> float:
        return 1 / (1 + self.batches)


@pytest.mark.parametrize("schedule", [lambda: ConstantSchedule(1.0), Half, CountsBatches])
def test_a_schedule_that_needs_no_step_is_not_told(schedule):
    epochs_without_a_step(schedule())


def test_the_state_of_the_criterion_holds_the_schedule():
    model = wrapped()
    old, new = (ShortcutLoss(model, CE, EvolutionarySchedule(10)) for _ in range(2))
    for _ in range(7):
        old.schedule.step()
    new.load_state_dict(old.state_dict())
    assert new.schedule.coefficient == old.schedule.coefficient != 1


def test_a_schedule_resumed_with_more_epochs_is_as_long_as_the_new_one():
    old, new = EvolutionarySchedule(2, start=1.0), EvolutionarySchedule(8, start=1.0)
    old.step()
    old.step()
    with pytest.warns(ShortcutWarning, match="schedule of 2 epochs, and this one has 8"):
        new.load_state_dict(old.state_dict())
    assert new.coefficient == 0.75


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_batches_that_are_not_finite_are_left_out_and_told(bad):
    model = wrapped()
    criterion = ShortcutLoss(model, CE)
    for factor in (1.0, bad, 1.0):
        criterion(model(images()).mean(0) * factor, Y)
        functional.reset_net(model)
    with pytest.warns(ShortcutWarning, match="1 of 3 batches had a loss that was not finite"):
        criterion.schedule.step()
    assert set(criterion.schedule.coefficients) == {"layer1.1", "layer2.1"}


def test_handover_waits_for_nothing_where_heads_vary_from_batch_to_batch(monkeypatch):
    schedule = HandoverSchedule()
    monkeypatch.setattr(Tensor, "tolist", lambda self: pytest.fail("waited for the device"))
    for i in range(4):
        varying = {"b": torch.tensor(4.0)} if i % 2 else {}
        schedule.observe({"main": torch.tensor(1.0), "a": torch.tensor(2.0), **varying})
    monkeypatch.undo()
    schedule.step()
    assert schedule.coefficients == {"a": 0.5, "b": 0.25}


# Surgery


@pytest.mark.parametrize("example", [False, True])
def test_wrapping_inside_inference_mode(example):
    model, x = Net(), images()
    with torch.inference_mode():
        listed = shortcut_points(model, images() if example else None)
        wrap_with_shortcuts(model, example_input=images() if example else None)
    assert len(listed) == len(shortcut_points(Net(), x if example else None))
    assert shortcut_branches(model).keys() == shortcut_branches(wrap_with_shortcuts(Net())).keys()
    ShortcutLoss(model, CE)(model(x).mean(0), Y).backward()
    assert all(p.grad is not None for p in shortcut_parameters(model))


@pytest.mark.parametrize("price", [False, True])
def test_a_default_device_is_not_where_small_numbers_go(price):
    """As after torch.set_default_device("cuda"): pinned memory is to be had on the CPU alone."""
    expected = None
    for default in (None, torch.device("meta")):
        torch.manual_seed(0)
        model, x = wrap_with_shortcuts(Net()), images()
        with torch.device("cpu") if default is None else default:
            loss = ShortcutLoss(model, CE, EvolutionarySchedule(4), price=price)
            first = loss(model(x).mean(0), Y)
            functional.reset_net(model)
            loss.schedule.step()
            values = first, loss(model(x).mean(0), Y)
        expected = expected or values
    assert all(map(torch.equal, values, expected))


def test_a_replaced_neuron_is_told():
    model = wrapped()
    model.layer1[1] = neuron.LIFNode(step_mode="m")
    output = model(images()).mean(0)
    for use in (lambda: loss_of(model)(output, Y), lambda: shortcut_logits(model)):
        with pytest.raises(RuntimeError, match="'layer1.1' is gone"):
            use()


def test_a_replaced_block_is_told():
    model = wrapped()
    criterion = loss_of(model)
    model.layer1 = nn.Linear(8, 16)
    output = model(images()).mean(0)
    with pytest.raises(RuntimeError, match="'layer1.1' is gone"):
        criterion(output, Y)


class Wrapping(nn.Module):
    """Something around a head that takes its main argument alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.parametrize("change", ["own", "wrapped", "weight norm", "pruned", "new parameters"])
def test_a_head_that_was_changed_trains(change):
    model = wrapped()
    branch = shortcut_branches(model)["layer1.1"]
    criterion = loss_of(model)
    train(model, criterion, sgd(model), steps=2)
    if change == "own":
        branch.head = nn.Linear(branch.channels, CLASSES)
    elif change == "wrapped":
        branch.head = Wrapping(branch.head)
    elif change == "weight norm":
        nn.utils.parametrizations.weight_norm(branch.head.linear)
    elif change == "pruned":
        prune.l1_unstructured(branch.head.linear, "weight", 0.5)
    else:
        branch.head.linear.bias = nn.Parameter(torch.zeros(CLASSES))
    before = copy.deepcopy(branch.state_dict())
    train(model, criterion, sgd(model), steps=20)
    assert any(not torch.equal(value, before[name]) for name, value in branch.state_dict().items())


def test_a_model_wrapped_anew_is_watched_anew():
    model = wrapped()
    criterion, optimizer = loss_of(model), sgd(model)
    train(model, criterion, optimizer)
    wrap_with_shortcuts(remove_shortcuts(model))
    with pytest.warns(ShortcutWarning, match="optimizer does not hold the shortcut heads"):
        train(model, criterion, optimizer)


def test_a_loss_of_a_model_without_its_heads_is_told():
    model = wrapped()
    criterion = loss_of(model)
    remove_shortcuts(model)
    with pytest.raises(ValueError, match="no shortcuts"):
        criterion(model(images()).mean(0), Y)


def test_pickled_models_and_losses_go_on():
    model = wrapped()
    criterion = ShortcutLoss(model, CE)
    train(model, criterion, sgd(model), steps=6)
    model, criterion = pickle.loads(pickle.dumps((model, criterion)))
    train(model, criterion, sgd(model), steps=10)


def test_folds_of_copies():
    model = wrapped()
    for _ in range(2):
        fold = copy.deepcopy(model)
        criterion = ShortcutLoss(fold, CE)
        train(fold, criterion, sgd(fold), steps=4, epochs=2, after_epoch=criterion.schedule.step)


def test_a_full_backward_hook_on_a_tapped_module_is_told():
    model = wrapped()
    watch = monitor.GradOutputMonitor(model, neuron.LIFNode, lambda grad: grad.norm())
    with pytest.warns(ShortcutWarning, match="full backward hook"):
        model(images())
    watch.remove_hooks()


# Other code


def test_buffers_of_other_tools_do_not_set_the_dtype_of_heads():
    surrogate = neuron.LIFNode().surrogate_function
    surrogate.register_buffer("total_ops", torch.zeros(1, dtype=torch.float64))
    try:
        model = wrapped()
        loss_of(model)(model(images()).mean(0), Y).backward()
    finally:
        del surrogate._buffers["total_ops"]


class Smooth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(4 * x)


def test_gradients_sample_by_sample():
    model = nn.Sequential(nn.Linear(8, 16), Smooth(), nn.Linear(16, 12), Smooth(), nn.Linear(12, 4))
    wrap_with_shortcuts(model, neuron_types=(Smooth,))
    criterion, x = loss_of(model), images()[0]
    model(x)

    def loss(parameters, x, y):
        output = torch.func.functional_call(model, parameters, (x[None],))
        return criterion(output, y[None])

    parameters = dict(model.named_parameters())
    grads = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, Y)
    criterion(model(x), Y).backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(grads[name].mean(0), parameter.grad)


class Fails(Net):
    fails = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(x))
        if self.fails:
            raise MemoryError
        return self.fc(self.layer3(x))


def test_a_forward_that_failed_midway_leaves_nothing_behind():
    model, x = wrap_with_shortcuts(Fails()), images()
    expected = by_hand(model, model(x).mean(0), Y)
    functional.reset_net(model)
    model.fails = True
    with pytest.raises(MemoryError):
        model(x)
    functional.reset_net(model)
    model.fails = False
    torch.testing.assert_close(loss_of(model)(model(x).mean(0), Y), expected)


def test_threads_with_a_model_each():
    failed = []

    def work() -> None:
        try:
            model = wrap_with_shortcuts(Net())
            loss_of(model)(model(images()).mean(0), Y).backward()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


@pytest.mark.parametrize("fed_back", [False, True])
def test_a_long_loop_and_outputs_that_are_inputs(fed_back):
    model = nn.Sequential(
        layer.Linear(4, 6),
        neuron.LIFNode(),
        layer.Linear(6, 6),
        neuron.LIFNode(),
        layer.Linear(6, 4),
    )
    wrap_with_shortcuts(model, example_input=torch.rand(2, 4))
    criterion, output, total = loss_of(model), torch.rand(2, 4), 0
    for _ in range(500):
        output = model(output if fed_back else output.detach())
        total = total + output / 500
    criterion(total, torch.tensor([0, 1])).backward()


# Measuring


def norms_by_hand(model: nn.Module, x: Tensor) -> Tensor:
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    grads = torch.autograd.grad(CE(model(x), Y), weights)
    functional.reset_net(model)
    return torch.stack([grad.norm() for grad in grads]).double()


class Loop(nn.Module):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.net, self.steps = Net("s"), steps

    def forward(self, x: Tensor) -> Tensor:
        return sum(self.net(x) for _ in range(self.steps)) / self.steps


@pytest.mark.parametrize("steps", [1, 3])
def test_gradient_flow_of_a_loop_inside_forward_and_of_a_single_step(steps):
    model, x = Loop(steps), images()[0]
    frame = gradient_flow(model, CE, (x, Y)).drop_duplicates("layer")
    seen = torch.tensor(frame.weight_grad_norm.to_numpy(float))
    torch.testing.assert_close(seen, norms_by_hand(model, x), rtol=1e-4, atol=1e-7)


def test_a_column_of_the_users_splits_no_run():
    frame = gradient_flow(Net(), CE, (images(), Y))
    frame["relative"] = frame.weight_grad_norm / frame.weight_grad_norm.max()
    assert len(summarize(frame)) == 1


class Remembers(Net):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(1)
        return super().forward(x)


def test_lists_that_a_model_fills_stay_as_they_were():
    model, x = Remembers(), images()
    shortcut_points(model, x)
    gradient_flow(model, CE, (x, Y))
    assert not model.seen


def test_lazy_layers_survive_an_example():
    model = nn.Sequential(
        nn.LazyLinear(16), neuron.LIFNode(step_mode="m"), nn.LazyLinear(12),
        neuron.LIFNode(step_mode="m"), nn.Linear(12, CLASSES),
    )  # fmt: skip
    shortcut_points(model, images())
    assert model(images()).shape == (T, N, CLASSES)


# Several processes


class ThreeOutputs(Net):
    def forward(self, x: Tensor) -> tuple:
        output = super().forward(x).mean(0)
        return output, 2 * output, {"more": output + 1}


def _train_on_ranks(rank: int) -> dict:
    torch.manual_seed(0)
    sums = {}
    for coefficient in (0.0, 1.0):
        for which in (lambda o: o[0], lambda o: o[1], lambda o: o[2]["more"]):
            model = wrap_with_shortcuts(ThreeOutputs())
            parallel = nn.parallel.DistributedDataParallel(model)
            criterion = loss_of(parallel, coefficient=coefficient)
            x = (1 + rank) * images()
            with parallel.no_sync():
                criterion(which(parallel(x)), Y).backward()
            functional.reset_net(model)
            for _ in range(2):
                criterion(which(parallel(x)), Y).backward()
                functional.reset_net(model)
            grads = [p.grad.abs().sum() for p in model.parameters() if p.grad is not None]
            sums[len(sums)] = float(sum(grads))
    return sums


def test_distributed_training_by_whichever_output(tmp_path):
    one, other = on_ranks(_train_on_ranks, tmp_path)
    assert len(one) == 6
    assert one == pytest.approx(other)
