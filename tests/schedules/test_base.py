"""What all schedules do; most of it is tried on those that there are."""

import copy
import pickle
import re
import warnings

import numpy as np
import pytest

from sj_shortcut import ConstantSchedule, EvolutionarySchedule, HandoverSchedule, ShortcutSchedule
from sj_shortcut.torch_model.warnings import ShortcutWarning
from tests.schedules.tools import FINITE, INF, NAN, through_torch


def test_steps_by_one_or_to_a_given_epoch():
    schedule = EvolutionarySchedule(10, start=1)
    assert schedule.last_epoch == 0
    schedule.step()
    assert (schedule.last_epoch, schedule.coefficient) == (1, 0.9)
    schedule.step(5)
    assert (schedule.last_epoch, schedule.coefficient) == (5, 0.5)
    schedule.step(5.5)
    assert (schedule.last_epoch, schedule.coefficient) == (5.5, pytest.approx(0.45))
    schedule.step(0)
    assert (schedule.last_epoch, schedule.coefficient) == (0, 1)


def test_step_after_fractions_goes_to_the_next_whole_epoch():
    schedule = EvolutionarySchedule(10)
    schedule.step(2 + 3 / 4)
    schedule.step()
    assert schedule.last_epoch == 3


def test_numpy_numbers_become_builtins():
    evolving = EvolutionarySchedule(np.int64(9), start=np.float32(2), steps=np.int32(3))
    evolving.step(np.float32(1.5))
    constant = ConstantSchedule(np.float64(0.5))
    for schedule in (evolving, constant):
        values = schedule.state_dict().values()
        assert {type(value) for value in values} <= {int, float, str}
        assert through_torch(schedule.state_dict()) == schedule.state_dict()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("schedule", [ConstantSchedule(0.5), EvolutionarySchedule(10, "cosine")])
def test_copies_are_equal_and_independent(schedule, copied):
    schedule.step(3)
    clone = copied(schedule)
    assert clone.state_dict() == schedule.state_dict()
    clone.step()
    assert schedule.last_epoch == 3


def test_repr_tells_settings_and_position():
    schedule = EvolutionarySchedule(10, "step", start=1, steps=2)
    schedule.step(5)
    assert repr(schedule) == (
        "EvolutionarySchedule(epochs=10, shape='step', start=1.0, end=0.0, hold=0.0, finish=1.0, "
        "rate=5.0, steps=2, last_epoch=5, coefficient=0.5)"
    )
    assert repr(ConstantSchedule(0.5)) == "ConstantSchedule(coefficient=0.5, last_epoch=0)"


class Table(ShortcutSchedule):
    def __init__(self, values):
        self.values = values

    def __call__(self, epoch):
        return self.values[min(int(epoch), len(self.values) - 1)]


def test_a_subclass_needs_only_a_call():
    schedule = Table([1.0, 0.5, 0.0])
    schedule.step()
    assert schedule.coefficient == 0.5
    resumed = Table([])
    resumed.load_state_dict(through_torch(schedule.state_dict()))
    assert resumed.coefficient == 0.5
    resumed.values.clear()
    assert schedule.values == [1.0, 0.5, 0.0]
    with pytest.raises(TypeError, match="abstract"):
        ShortcutSchedule()


@pytest.mark.parametrize("schedule", [ConstantSchedule(), EvolutionarySchedule(10)])
@pytest.mark.parametrize(
    ("epoch", "error", "message"),
    [
        (-1, ValueError, "epoch must be 0 or more, not -1. The first epoch is 0."),
        (NAN, ValueError, f"epoch {FINITE} nan."),
        (INF, ValueError, f"epoch {FINITE} inf."),
        (True, TypeError, "epoch must be a number, not bool: True."),
        ("3", TypeError, "epoch must be a number, not str: '3'."),
    ],
)
def test_refuses_a_bad_epoch(schedule, epoch, error, message):
    before = schedule.state_dict()
    for use in (schedule, schedule.step):
        with pytest.raises(error, match=re.escape(message)):
            use(epoch)
    assert schedule.state_dict() == before


# What schedules declare


def test_what_a_schedule_of_the_users_own_declares_unless_it_says_otherwise():
    assert (Table.epochs, Table.needs_steps, Table.needs_losses) == (None, True, False)


@pytest.mark.parametrize(
    "schedule", [ConstantSchedule(), EvolutionarySchedule(3), HandoverSchedule(), Table([1.0])]
)
def test_declarations_are_no_state(schedule):
    assert not {"needs_losses", "needs_steps"} & schedule.state_dict().keys()
    assert ("epochs" in schedule.state_dict()) == (schedule.epochs is not None)


# Beyond the end


def stepped(schedule, times):
    """The warnings of some steps."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(times):
            schedule.step()
    return caught


def test_the_normal_end_is_silent():
    schedule = EvolutionarySchedule(10)
    assert not stepped(schedule, 10)
    assert (schedule.last_epoch, schedule.coefficient) == (10, 0)


def test_steps_beyond_the_end_are_told_of_once():
    schedule = EvolutionarySchedule(10, end=0.25)
    (caught,) = stepped(schedule, 13)
    assert caught.category is ShortcutWarning and caught.filename == __file__
    said = str(caught.message)
    assert "EvolutionarySchedule is at epoch 11 of a training of 10 epochs (epochs=10)" in said
    assert "λ is at its end, 0.25" in said and "Is it stepped once a batch?" in said
    assert not stepped(schedule, 3)
    assert schedule.last_epoch == 16


def test_each_schedule_tells_for_itself():
    for _ in range(2):
        assert len(stepped(EvolutionarySchedule(3), 20)) == 1


def test_steps_within_epochs_end_silently_too():
    schedule = EvolutionarySchedule(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for epoch in range(3):
            for batch in range(7):
                schedule.step(epoch + (batch + 1) / 7)
        assert schedule.last_epoch == 3
    with pytest.warns(ShortcutWarning, match="is at epoch 3.1 of"):
        schedule.step(3.1)


def test_a_length_that_is_no_whole_number_ends_with_its_last_epoch():
    schedule = EvolutionarySchedule(2.5)
    assert not stepped(schedule, 3)
    assert len(stepped(schedule, 1)) == 1


def test_having_told_of_it_is_no_state():
    schedule = EvolutionarySchedule(3)
    before = schedule.state_dict().keys()
    assert stepped(schedule, 5)
    assert schedule.state_dict().keys() == before
    assert "warned" not in repr(schedule)
    resumed = EvolutionarySchedule(3)
    resumed.load_state_dict(through_torch(schedule.state_dict()))
    assert len(stepped(resumed, 1)) == 1


def test_a_schedule_of_the_users_own_may_have_a_length():
    class Halving(ShortcutSchedule):
        def __init__(self, epochs):
            self.epochs = epochs

        def __call__(self, epoch):
            return 0.5**epoch

    assert not stepped(Halving(4), 4)
    assert len(stepped(Halving(4), 9)) == 1
    assert not stepped(Table([1.0]), 100)
