"""Schedules stepped too often, too rarely, or for another model."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import nn

from sj_shortcut import (
    ConstantSchedule,
    EvolutionarySchedule,
    HandoverSchedule,
    ShortcutLoss,
    ShortcutSchedule,
    ShortcutWarning,
    wrap_with_shortcuts,
)
from tests.nets.small import Net, images, labels

FALLING = [lambda: EvolutionarySchedule(40), HandoverSchedule]


def loss_with(schedule: ShortcutSchedule) -> ShortcutLoss:
    torch.manual_seed(0)
    return ShortcutLoss(wrap_with_shortcuts(Net()), nn.CrossEntropyLoss(), schedule)


def train(criterion: ShortcutLoss, steps: int = 4) -> None:
    (model,) = criterion._root
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(model.train()(images()).mean(0), labels()).backward()
        optimizer.step()
        functional.reset_net(model)


def evaluate(criterion: ShortcutLoss) -> None:
    (model,) = criterion._root
    model.eval()
    with torch.no_grad():
        criterion(model(images()).mean(0), labels())
    functional.reset_net(model)


def told(run: Callable[[], None]) -> str:
    """What is told while something runs, nothing or one warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    said = [str(w.message) for w in caught if issubclass(w.category, ShortcutWarning)]
    assert len(said) <= 1
    return "".join(said)


@pytest.mark.parametrize("schedule", FALLING)
@pytest.mark.parametrize("first", ["alive", "gone", "made beforehand"])
def test_one_schedule_for_several_folds_is_told(schedule, first):
    shared = schedule()
    losses = [loss_with(shared)]
    if first == "made beforehand":
        losses.append(loss_with(shared))
    for _ in range(3):
        train(losses[0])
        shared.step()
    if first == "gone":
        losses.clear()
    if first != "made beforehand":
        losses.append(loss_with(shared))
    assert "another model was trained with this schedule, up to epoch 3" in told(
        lambda: train(losses[-1])
    )


def test_a_schedule_that_goes_on_is_not_told():
    resumed = EvolutionarySchedule(40)
    resumed.step(7)
    criterion = loss_with(resumed)
    other = ShortcutLoss(criterion._root[0], nn.MultiMarginLoss(), resumed)
    copied = copy.deepcopy(criterion)

    def epochs() -> None:
        for _ in range(3):
            for each in (criterion, other, copied):
                train(each)
            resumed.step()
            copied.schedule.step()

    assert told(epochs) == ""
    together, twin = loss_with(shared := EvolutionarySchedule(40)), loss_with(shared)

    def side_by_side() -> None:
        for _ in range(3):
            train(together)
            train(twin)
            shared.step()

    assert told(side_by_side) == ""


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("schedule", FALLING)
def test_a_schedule_stepped_more_than_once_an_epoch_is_told(schedule, times):
    criterion = loss_with(schedule())

    def epochs() -> None:
        for _ in range(4):
            train(criterion)
            for _ in range(times):
                criterion.schedule.step()

    assert f"stepped {times} times from one training loss to the next" in told(epochs)


def test_losses_of_two_models_that_each_step_what_they_share_are_told():
    criterion, other = loss_with(shared := EvolutionarySchedule(40)), loss_with(shared)

    def epochs() -> None:
        for _ in range(4):
            train(criterion)
            train(other)
            criterion.schedule.step()
            other.schedule.step()

    with pytest.warns(ShortcutWarning, match="that several losses share is stepped once"):
        epochs()


def test_steps_to_where_the_training_is_are_not_told():
    def catching_up() -> None:
        criterion = loss_with(EvolutionarySchedule(40))
        for _ in range(7):
            criterion.schedule.step()
        train(criterion)
        criterion.schedule.step()
        for _ in range(5):  # as after going back to the best epoch so far
            criterion.schedule.step()
        for _ in range(4):
            train(criterion)
            criterion.schedule.step()

    def by_iterations() -> None:
        criterion = loss_with(EvolutionarySchedule(400))
        for i in range(20):
            train(criterion, 2)
            criterion.schedule.step(2 * (i + 1))

    def constant() -> None:
        criterion = loss_with(ConstantSchedule(1.0))
        for _ in range(5):
            train(criterion)
            criterion.schedule.step()
            criterion.schedule.step()

    def every_second_epoch() -> None:
        criterion = loss_with(EvolutionarySchedule(40))
        (model,) = criterion._root
        for epoch in range(8):
            for _ in range(4):
                if epoch % 2:
                    train(criterion, 1)
                else:
                    nn.functional.cross_entropy(model(images()).mean(0), labels()).backward()
                    functional.reset_net(model)
            criterion.schedule.step()

    for run in (catching_up, by_iterations, constant, every_second_epoch):
        assert told(run) == ""


@pytest.mark.parametrize("schedule", [lambda: EvolutionarySchedule(20), HandoverSchedule])
@pytest.mark.parametrize(("often", "steps"), [(4, 3), (8, 3), (30, 1)])
def test_evaluations_within_the_first_epoch_are_not_told(schedule, often, steps):
    criterion = loss_with(schedule())

    def epochs() -> None:
        for _ in range(3):
            for _ in range(often):
                train(criterion, steps)
                evaluate(criterion)
            train(criterion, 1)
            criterion.schedule.step()

    assert told(epochs) == ""


@pytest.mark.parametrize(("epochs", "evaluations"), [(2, 3), (3, 3), (10, 5), (300, 10)])
def test_a_schedule_never_stepped_is_told_by_half_of_its_epochs_or_ten(epochs, evaluations):
    criterion = loss_with(EvolutionarySchedule(epochs))

    def run(times: int) -> None:
        for _ in range(times):
            train(criterion, 3)
            evaluate(criterion)

    assert told(lambda: run(evaluations)) == ""
    assert f"evaluated {evaluations} times, but the schedule was never stepped" in told(
        lambda: train(criterion)
    )


def test_evaluations_before_the_first_loss_are_not_told():
    criterion = loss_with(EvolutionarySchedule(4))
    (model,) = criterion._root
    for _ in range(12):  # a warm-up with a loss of the user's own, say
        model.train()(images())
        functional.reset_net(model)
        evaluate(criterion)
    assert told(lambda: train(criterion)) == ""


@pytest.mark.parametrize("validates", [False, True])
def test_a_schedule_stepped_with_each_batch_is_told_unless_epochs_have_a_validation(validates):
    criterion = loss_with(EvolutionarySchedule(100))

    def batches() -> None:
        for _ in range(8):
            train(criterion, 1)
            criterion.schedule.step()
            if validates:
                evaluate(criterion)

    assert ("stepped after each single batch" in told(batches)) is not validates
