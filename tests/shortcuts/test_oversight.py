"""Slips that would make heads useless are told once; training as it should be is told nothing."""

import warnings

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import nn

from sj_shortcut import (
    ConstantSchedule,
    ShortcutLoss,
    ShortcutWarning,
    shortcut_branches,
    shortcut_parameters,
    wrap_with_shortcuts,
)
from sj_shortcut.shortcuts.oversight import own_parameters
from tests.nets.small import Net, images, labels

STEPS = 70  # beyond every number of steps after which something is looked at


def wrapped() -> nn.Module:
    torch.manual_seed(0)
    return wrap_with_shortcuts(Net())


def train(
    model: nn.Module, criterion: nn.Module, optimizer: torch.optim.Optimizer, steps: int = STEPS
) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(model(images()).mean(0), labels()).backward()
        optimizer.step()
        functional.reset_net(model)


def told_in(model: nn.Module, criterion: nn.Module, parameters: object, steps: int = STEPS):
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, criterion, optimizer, steps)
    return [str(w.message) for w in caught if issubclass(w.category, ShortcutWarning)]


def loss_of(model: nn.Module) -> ShortcutLoss:
    return ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(1.0))


def test_the_models_own_parameters_are_those_without_heads():
    model, plain = wrapped(), Net()
    own, heads = own_parameters(model), list(shortcut_parameters(model))
    assert [p.shape for p in own] == [p.shape for p in plain.parameters()]
    assert {id(p) for p in own} | {id(p) for p in heads} == {id(p) for p in model.parameters()}
    assert not {id(p) for p in own} & {id(p) for p in heads}


def test_training_as_it_should_be_is_told_nothing():
    model = wrapped()
    assert told_in(model, loss_of(model), model.parameters()) == []


def test_an_optimizer_without_heads_is_told_though_its_steps_go_on():
    model = wrapped()
    (told,) = told_in(model, loss_of(model), own_parameters(model))
    assert told.startswith("the optimizer does not hold the shortcut heads: other parameters")


def test_an_optimizer_without_one_head_is_told_which():
    model = wrapped()
    branches = shortcut_branches(model)
    parameters = [*own_parameters(model), *branches["layer1.1"].parameters()]
    (told,) = told_in(model, loss_of(model), parameters)
    assert "does not hold the shortcut heads at 'layer2.1'" in told


def test_a_model_that_stands_still_altogether_is_no_slip_of_the_optimizer():
    model = wrapped()
    assert told_in(model, loss_of(model), [nn.Parameter(torch.zeros(1))]) == []


def test_frozen_heads_are_told_at_the_first_step():
    model = wrapped()
    for parameter in shortcut_branches(model)["layer2.1"].parameters():
        parameter.requires_grad_(False)
    (told,) = told_in(model, loss_of(model), model.parameters(), steps=1)
    assert told.startswith("the shortcut head at 'layer2.1' is frozen")


def test_heads_behind_frozen_layers_are_told():
    model = wrap_with_shortcuts(Net(), at=["layer1.1", "layer2.1"])
    model.layer1[0].requires_grad_(False)
    (told,) = told_in(model, loss_of(model), [p for p in model.parameters() if p.requires_grad])
    assert told.startswith("no layer below the shortcut head at 'layer1.1' learns")
    # All frozen, the input's gradient is asked for.
    model.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_of(model)(model(images().requires_grad_()).mean(0), labels()).backward()


def test_heads_that_no_loss_uses_are_told():
    model = wrapped()
    (told,) = told_in(model, nn.CrossEntropyLoss(), model.parameters())
    assert "no loss has used them" in told


def test_a_stage_in_eval_mode_is_told_and_so_is_a_head_that_never_runs():
    model = wrapped()
    model.layer2.eval()
    told = told_in(model, loss_of(model), model.parameters(), steps=12)
    assert [("'layer2.1' had no part" in one, "'layer2.1' has not run" in one) for one in told] == [
        (True, False),
        (False, True),
    ]


def test_a_loss_differentiated_in_eval_mode_is_told_but_not_an_attack():
    model, criterion = wrapped().eval(), None
    criterion = loss_of(model)
    x = images().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = criterion(model(x).mean(0), labels())
        torch.autograd.grad(loss, x, allow_unused=True)  # 0.0.0.0.14 has no gradient in eval mode
    functional.reset_net(model)
    with pytest.warns(ShortcutWarning, match="taken in eval mode was differentiated"):
        criterion(model(x.detach()).mean(0), labels()).backward()
