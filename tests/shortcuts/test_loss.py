"""The value of a ShortcutLoss against sums done by hand, and what it reads and writes."""

import copy
import math
import pickle
from math import log, sqrt

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from sj_shortcut import (
    ConstantSchedule,
    EvolutionarySchedule,
    HandoverSchedule,
    ShortcutLoss,
    ShortcutWarning,
    remove_shortcuts,
    shortcut_branches,
    shortcut_parameters,
    wrap_with_shortcuts,
)
from tests.nets.small import (
    CLASSES,
    N,
    Net,
    T,
    gradients,
    images,
    labels,
    skip_unless_neurons_compile,
)

HEADS = ["layer1.1", "layer2.1"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def net_with_logits(main: float, first: float, second: float) -> nn.Module:
    """Whatever comes in: output and heads say these numbers for class 0, and 0 for the others."""
    model = wrap_with_shortcuts(Net())
    linears = [model.fc, *(branch.head.linear for branch in shortcut_branches(model).values())]
    with torch.no_grad():
        for linear, value in zip(linears, (main, first, second), strict=True):
            linear.weight.zero_()
            linear.bias.copy_(torch.tensor([value, 0, 0, 0]))
    return model


def forward(model: nn.Module, criterion: nn.Module, target: Tensor | None = None) -> Tensor:
    functional.reset_net(model)
    return criterion(model(images()).mean(0), labels() if target is None else target)


def close(value: Tensor, expected: float) -> bool:
    return math.isclose(value.item(), expected, rel_tol=1e-5)


# With logits [log a, 0, 0, 0] the classes have the probabilities a, 1, 1, 1 over a + 3, and the
# labels are 0, 1, 2.
MAIN = log(4)
FIRST = (log(5 / 2) + 2 * log(5)) / 3  # a = 2
SECOND = (log(6 / 3) + 2 * log(6)) / 3  # a = 3


@pytest.mark.parametrize(
    ("coefficient", "weights", "expected"),
    [
        (1, None, MAIN + FIRST + SECOND),
        (0.5, None, MAIN + 0.5 * (FIRST + SECOND)),
        (0.5, [1, 2], MAIN + 0.5 * (FIRST + 2 * SECOND)),
        (2.0, {"layer2.1": 0.25}, MAIN + 2 * (FIRST + 0.25 * SECOND)),
        (1, {"layer1.1": 0}, MAIN + SECOND),
        (1, (0, 0), MAIN),
        (0, None, MAIN),
    ],
)
def test_sum_of_losses_by_hand(coefficient, weights, expected):
    model = net_with_logits(0, log(2), log(3))
    criterion = ShortcutLoss(
        model, nn.CrossEntropyLoss(), ConstantSchedule(coefficient), weights=weights
    )
    assert close(forward(model, criterion), expected)


@pytest.mark.parametrize(
    ("coefficient", "weights", "a"),
    [
        (1, None, 6),
        (0.5, [1, 2], 3 * sqrt(2)),
        (1, {"layer1.1": 0}, 3),
        (2, {"layer1.1": 0}, 9),
        (0, None, 1),
    ],
)
def test_loss_of_summed_logits_by_hand(coefficient, weights, a):
    model = net_with_logits(0, log(2), log(3))
    criterion = ShortcutLoss(
        model,
        nn.CrossEntropyLoss(),
        ConstantSchedule(coefficient),
        combine="logits",
        weights=weights,
    )
    expected = (log((a + 3) / a) + 2 * log(a + 3)) / 3
    assert close(forward(model, criterion), expected)


def test_squared_error_on_one_hot_targets_by_hand():
    model = net_with_logits(0, 1, 2)
    criterion = ShortcutLoss(model, nn.MSELoss())
    one_hot = nn.functional.one_hot(labels(), CLASSES).float()
    # Rows of the main output miss by 1 each, those of the heads by 0, 2, 2 and 1, 5, 5.
    assert close(forward(model, criterion, one_hot), 3 / 12 + 4 / 12 + 11 / 12)


def test_class_probabilities_as_targets():
    model = net_with_logits(0, log(2), log(3))
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    one_hot = nn.functional.one_hot(labels(), CLASSES).float()
    assert close(forward(model, criterion, one_hot), MAIN + FIRST + SECOND)


def test_a_criterion_that_does_not_reduce():
    model = net_with_logits(0, log(2), log(3))
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(reduction="none"))
    total = forward(model, criterion)
    expected = [log(4) + log(5 / 2) + log(2), *[log(4) + log(5) + log(6)] * 2]
    torch.testing.assert_close(total, torch.tensor(expected))
    assert criterion.parts["layer1.1"].shape == (N,)


def features_of(model: nn.Module) -> dict[str, Tensor]:
    features: dict[str, Tensor] = {}
    for name in HEADS:
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: features.update({name: output})
        )
    return features


@pytest.mark.parametrize("combine", ["loss", "logits"])
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_loss_of_every_time_step(combine, step_mode):
    model = Net("m")
    features = features_of(model)
    wrap_with_shortcuts(model)
    task_loss = nn.CrossEntropyLoss()
    criterion = ShortcutLoss(
        model, task_loss, ConstantSchedule(0.5), per_step=True, combine=combine
    )
    x = images()
    output = model(x)
    heads = {
        name: branch.head.linear(features[name])
        for name, branch in shortcut_branches(model).items()
    }
    steps = []
    for t in range(T):
        logits = [heads[name][t] for name in HEADS]
        if combine == "loss":
            terms = [task_loss(head, labels()) for head in logits]
            steps.append(task_loss(output[t], labels()) + 0.5 * sum(terms))
        else:
            steps.append(task_loss(output[t] + 0.5 * sum(logits), labels()))
    if step_mode == "s":
        functional.reset_net(model)
        functional.set_step_mode(model, "s")
        output = torch.stack([model(step) for step in x])
    torch.testing.assert_close(criterion(output, labels()), sum(steps) / T)


def test_a_coefficient_scales_the_gradient_of_a_head():
    model = wrap_with_shortcuts(Net())
    twice = copy.deepcopy(model)
    x = images()
    for net, coefficient in ((model, 0.5), (twice, 1.0)):
        criterion = ShortcutLoss(net, nn.CrossEntropyLoss(), ConstantSchedule(coefficient))
        criterion(net(x).mean(0), labels()).backward()
    for a, b in zip(shortcut_parameters(model), shortcut_parameters(twice), strict=True):
        assert b.grad.abs().sum() > 0
        torch.testing.assert_close(2 * a.grad, b.grad)


def test_gradients_are_those_of_the_sum():
    model = Net()
    features = features_of(model)
    wrap_with_shortcuts(model)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(0.5))
    x = images()
    criterion(model(x).mean(0), labels()).backward()
    seen = gradients(model)
    model.zero_grad()
    functional.reset_net(model)

    task_loss = nn.CrossEntropyLoss()
    total = task_loss(model(x).mean(0), labels())
    for name, branch in shortcut_branches(model).items():
        total = total + 0.5 * task_loss(branch.head.linear(features[name].mean(0)), labels())
    total.backward()
    for name, expected in gradients(model).items():
        torch.testing.assert_close(seen[name], expected, msg=name)


# What it tells


def test_parts_of_a_sum_of_losses():
    model = net_with_logits(0, log(2), log(3))
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(0.5), weights=[1, 2])
    assert criterion.parts == {}
    forward(model, criterion)
    expected = {
        "total": MAIN + 0.5 * (FIRST + 2 * SECOND),
        "main": MAIN,
        "layer1.1": FIRST,
        "layer2.1": SECOND,
    }
    assert list(criterion.parts) == list(expected)
    assert all(close(criterion.parts[name], value) for name, value in expected.items())
    assert not any(part.requires_grad for part in criterion.parts.values())


@pytest.mark.parametrize("coefficient", [0.0, 0.5])
def test_parts_of_summed_logits(coefficient):
    model = net_with_logits(0, log(2), log(2))
    criterion = ShortcutLoss(
        model, nn.CrossEntropyLoss(), ConstantSchedule(coefficient), combine="logits"
    )
    forward(model, criterion)
    assert list(criterion.parts) == ["total", "main"]
    assert close(criterion.parts["total"], FIRST if coefficient else MAIN)
    assert close(criterion.parts["main"], MAIN)
    assert not any(part.requires_grad for part in criterion.parts.values())


@pytest.mark.parametrize("weights", [None, [0, 0]])
def test_terms_of_weight_zero_are_not_computed(weights):
    model = net_with_logits(0, log(2), log(3))
    calls = []

    def task_loss(logits: Tensor, target: Tensor) -> Tensor:
        calls.append(logits)
        return nn.functional.cross_entropy(logits, target)

    schedule = ConstantSchedule(0 if weights is None else 1)
    criterion = ShortcutLoss(model, task_loss, schedule, weights=weights)
    forward(model, criterion).backward()
    assert len(calls) == 1
    assert list(criterion.parts) == ["total", "main"]
    assert all(parameter.grad is None for parameter in shortcut_parameters(model))


def test_print_shows_the_options():
    criterion = ShortcutLoss(
        wrap_with_shortcuts(Net()), nn.MSELoss(), ConstantSchedule(0.5), combine="logits"
    )
    assert repr(criterion) == (
        "ShortcutLoss(\n"
        "  schedule=ConstantSchedule(coefficient=0.5, last_epoch=0), combine='logits', "
        "per_step=False\n"
        "  (criterion): MSELoss()\n"
        ")"
    )


# When it is the plain criterion


@pytest.mark.parametrize("combine", ["loss", "logits"])
def test_in_eval_mode_it_is_the_plain_criterion(combine):
    model = net_with_logits(log(2), log(9), log(9)).eval()
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), combine=combine)
    total = forward(model, criterion)
    assert close(total, FIRST)
    assert criterion.parts == {}


@pytest.mark.parametrize("combine", ["loss", "logits"])
def test_an_evaluation_leaves_the_parts_of_the_training_loss(combine):
    model = net_with_logits(0, log(2), log(3))
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), combine=combine)
    forward(model, criterion)
    parts = criterion.parts
    forward(model.eval(), criterion)
    model.train()
    with torch.no_grad():
        forward(model, criterion)
    assert criterion.parts is parts


def test_without_gradients_it_is_the_plain_criterion():
    model = net_with_logits(log(2), log(9), log(9))
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    with torch.no_grad():
        assert close(forward(model, criterion), FIRST)


def test_per_step_in_eval_mode_averages_the_steps():
    model = wrap_with_shortcuts(Net()).eval()
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), per_step=True)
    output = model(images())
    expected = sum(nn.functional.cross_entropy(step, labels()) for step in output) / T
    torch.testing.assert_close(criterion(output, labels()), expected)


def test_after_removal_it_still_validates_and_refuses_to_train():
    model = wrap_with_shortcuts(Net())
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    remove_shortcuts(model).eval()
    assert forward(model, criterion).isfinite()
    model.train()
    with pytest.raises(ValueError, match="Net has no shortcuts: call wrap_with_shortcuts"):
        forward(model, criterion)


# Schedule


def test_the_default_schedule_hands_over_where_there_are_losses_to_compare():
    model = wrap_with_shortcuts(Net())
    default = ShortcutLoss(model, nn.CrossEntropyLoss()).schedule
    assert isinstance(default, HandoverSchedule) and default.coefficient == 1
    default = ShortcutLoss(model, nn.CrossEntropyLoss(), combine="logits").schedule
    assert isinstance(default, ConstantSchedule) and default.coefficient == 1


def test_the_schedule_drives_the_total():
    model = net_with_logits(0, log(2), log(3))
    schedule = EvolutionarySchedule(4, start=1)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), schedule)
    assert criterion.schedule is schedule
    for coefficient in (1, 0.75, 0.5, 0.25):
        for _ in range(2):  # batches of an epoch
            assert close(forward(model, criterion), MAIN + coefficient * (FIRST + SECOND))
        criterion.schedule.step()
    assert close(forward(model, criterion), MAIN)
    with pytest.warns(ShortcutWarning, match="at epoch 5 of a training of 4 epochs"):
        criterion.schedule.step()
    assert close(forward(model, criterion), MAIN)


# Where it sits


def test_it_does_not_own_the_model():
    model = wrap_with_shortcuts(Net())
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    assert list(criterion.modules()) == [criterion, criterion.criterion]
    assert not list(criterion.parameters()) and list(criterion.state_dict()) == ["_extra_state"]
    criterion.eval().double()
    assert model.training and model.fc.weight.dtype is torch.float32


def test_class_weights_move_and_are_saved_with_it():
    model = wrap_with_shortcuts(Net())
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3, 4])))
    assert list(criterion.state_dict()) == ["_extra_state", "criterion.weight"]
    assert criterion.to(torch.float64).criterion.weight.dtype is torch.float64
    assert criterion(model.double()(images().double()).mean(0), labels()).dtype is torch.float64


class Holder(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


def compiled(model: nn.Module) -> nn.Module:
    skip_unless_neurons_compile()
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize(
    "outer",
    [lambda model: model, Holder, compiled],
    ids=["bare", "inside another module", "compiled"],
)
def test_it_finds_the_wrapped_model(outer):
    inner = net_with_logits(0, log(2), log(3))
    model = outer(inner)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    assert close(forward(model, criterion), MAIN + FIRST + SECOND)
    inner.eval()
    assert close(forward(model, criterion), MAIN)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_together_with_its_model_reads_the_copy(copied):
    model = net_with_logits(0, log(2), log(3))
    pair = model, ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(0.5))
    twin, criterion = copied(pair)
    with torch.no_grad():
        for branch in shortcut_branches(model).values():
            branch.head.linear.bias.fill_(math.nan)
    assert close(forward(twin, criterion), MAIN + 0.5 * (FIRST + SECOND))


def test_a_model_wrapped_anew_needs_a_new_loss():
    model = wrap_with_shortcuts(Net())
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    wrap_with_shortcuts(remove_shortcuts(model), "layer2.1")
    with pytest.raises(RuntimeError) as error:
        forward(model, criterion)
    assert str(error.value) == (
        "this ShortcutLoss was made for heads at layer1.1, layer2.1, but the model has them at "
        "layer2.1 now: make a new ShortcutLoss."
    )


def test_two_losses_of_one_model_must_agree_on_steps():
    model = wrap_with_shortcuts(Net())
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), per_step=True)
    ShortcutLoss(model, nn.CrossEntropyLoss())
    with pytest.raises(RuntimeError) as error:
        criterion(model(images()), labels())
    assert str(error.value) == (
        "another ShortcutLoss with per_step=False was made for this model after this one with "
        "per_step=True, so its heads keep no logits per step: make this one last."
    )


def test_the_loss_of_heads_is_as_precise_as_that_of_the_output():
    """A criterion outside of autocast is given an output in single precision, as by Accelerate."""
    model = wrap_with_shortcuts(Net())
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images())
    criterion(output.float().mean(0), labels()).backward()
    assert {part.dtype for part in criterion.parts.values()} == {torch.float32}
    assert all(parameter.grad.any() for parameter in shortcut_parameters(model))
