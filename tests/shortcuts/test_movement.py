"""Whether heads move, told by versions and by values that the device compares."""

import gc

import torch

from sj_shortcut import shortcut_branches, wrap_with_shortcuts
from sj_shortcut.shortcuts.movement import Movement, own_parameters
from tests.nets.small import Net


def watched() -> tuple[torch.nn.Module, Movement]:
    torch.manual_seed(0)
    model = wrap_with_shortcuts(Net())
    movement = Movement(model, shortcut_branches(model))
    movement.count(movement.heads)
    return model, movement


def step(parameters, lr: float = 0.1) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.ones_like(parameter), alpha=lr)


def heads(model: torch.nn.Module, name: str) -> list[torch.nn.Parameter]:
    return list(shortcut_branches(model)[name].parameters())


def test_nothing_is_known_while_nothing_moves() -> None:
    assert watched()[1].left_behind() is None


def test_a_head_that_stays_while_others_move_is_left_behind() -> None:
    model, movement = watched()
    step(model.fc.parameters())
    assert movement.left_behind() == ["layer1.1", "layer2.1"]
    step(heads(model, "layer1.1"))
    assert movement.left_behind() == ["layer2.1"]


def test_a_head_that_is_written_but_does_not_change_is_unmoved() -> None:
    model, movement = watched()
    step(model.parameters(), 0.0)
    assert movement.unmoved() is None  # the device compares
    assert movement.unmoved() == []  # nothing moved at all
    model, movement = watched()
    step([*own_parameters(model), *heads(model, "layer1.1")])
    step(heads(model, "layer2.1"), 0.0)
    assert movement.left_behind() == []
    movement.unmoved()
    assert movement.unmoved() == ["layer2.1"]


def test_an_optimizer_that_is_alive_holds_its_parameters() -> None:
    model, movement = watched()
    optimizer = torch.optim.SGD(heads(model, "layer1.1"), 0.1)
    assert movement.is_held(["layer1.1"])
    assert not movement.is_held(["layer1.1", "layer2.1"])
    del optimizer
    gc.collect()
    assert not movement.is_held(["layer1.1"])
