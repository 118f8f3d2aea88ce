import copy
import doctest
import io
import math
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import sj_shortcut.schedules.base as schedule_module
from sj_shortcut.schedules.base import ConstantSchedule, EvolutionarySchedule, ShortcutSchedule

SHAPES = ["linear", "cosine", "exponential", "step"]


@st.composite
def settings(draw):
    """Arguments of an EvolutionarySchedule over the whole range of what it takes."""
    end, start = sorted(draw(st.tuples(*[st.floats(0, 1e3)] * 2)))
    hold, finish = sorted(draw(st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True)))
    return {
        "epochs": draw(st.integers(1, 1000) | st.floats(1e-3, 1e3)),
        "shape": draw(st.sampled_from(SHAPES)),
        "start": start,
        "end": end,
        "hold": hold,
        "finish": finish,
        "rate": draw(st.floats(1e-12, 1e3)),
        "steps": draw(st.integers(1, 1000)),
    }


any_epoch = st.integers(0, 2000) | st.floats(0, 2000)


@given(settings(), any_epoch, any_epoch)
def test_falls_within_its_bounds(kwargs, one, other):
    schedule = EvolutionarySchedule(**kwargs)
    early, late = schedule(min(one, other)), schedule(max(one, other))
    assert type(early) is float
    assert kwargs["end"] <= late <= kwargs["start"]
    assert kwargs["end"] <= early <= kwargs["start"]
    # exp and cos are exact to the last digit or so only.
    assert late <= early + 1e-12 * kwargs["start"]


@given(settings(), st.floats(0, 1))
def test_is_exactly_start_up_to_hold_and_exactly_end_from_finish(kwargs, fraction):
    schedule = EvolutionarySchedule(**kwargs)
    epochs, hold, finish = (kwargs[name] for name in ("epochs", "hold", "finish"))
    assert schedule(0) == kwargs["start"]
    assert schedule(fraction * hold * epochs * (1 - 1e-12)) == kwargs["start"]
    assert schedule((finish + fraction * (1 - finish)) * epochs * (1 + 1e-12)) == kwargs["end"]
    assert schedule(epochs) == schedule(10 * epochs) == kwargs["end"]


@given(settings(), any_epoch, any_epoch)
def test_calling_is_pure(kwargs, here, elsewhere):
    schedule = EvolutionarySchedule(**kwargs)
    schedule.step(here)
    before = schedule.state_dict()
    first = schedule(elsewhere)
    assert schedule(elsewhere) == first
    assert schedule.state_dict() == before
    assert schedule.coefficient == schedule(here)


@given(st.integers(1, 500), st.floats(0, 1), st.floats(0, 10))
def test_linear_and_cosine_without_hold_are_the_published_decays(epochs, fraction, weight):
    epoch = fraction * epochs
    linear = EvolutionarySchedule(epochs, "linear", start=weight, hold=0)
    cosine = EvolutionarySchedule(epochs, "cosine", start=weight, hold=0)
    # λ snaps to its end within a billionth of the last epoch.
    near = {"rel": 1e-9, "abs": 2e-8}
    assert linear(epoch) == pytest.approx(weight * (epochs - epoch) / epochs, **near)
    expected = weight * (1 + math.cos(math.pi * epoch / epochs)) / 2
    assert cosine(epoch) == pytest.approx(expected, **near)


@given(st.floats(1e-3, 50), st.floats(0, 1))
def test_exponential_is_its_formula(rate, progress):
    schedule = EvolutionarySchedule(1, "exponential", hold=0, rate=rate)
    floor = math.exp(-rate)
    expected = (math.exp(-rate * progress) - floor) / (1 - floor)
    assert schedule(progress) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("rate", [1e-300, 5e-324, 1e300])
def test_exponential_stands_extreme_rates(rate):
    schedule = EvolutionarySchedule(4, "exponential", hold=0, rate=rate)
    values = [schedule(epoch) for epoch in range(5)]
    assert values[0] == 1
    assert values[-1] == 0
    assert values == sorted(values, reverse=True)


@given(st.integers(1, 300))
@example(49)
def test_each_step_falls_in_its_epoch_despite_rounding(epochs):
    schedule = EvolutionarySchedule(epochs, "step", hold=0, steps=epochs)
    exact = [float(1 - Fraction(epoch, epochs)) for epoch in range(epochs + 1)]
    assert [schedule(epoch) for epoch in range(epochs + 1)] == pytest.approx(exact, abs=1e-12)


@given(st.integers(2, 500), st.sampled_from(SHAPES))
@example(49, "linear")
def test_finish_can_leave_exactly_the_last_epoch_at_the_end(epochs, shape):
    schedule = EvolutionarySchedule(epochs, shape, hold=0, finish=1 - 1 / epochs)
    assert schedule(epochs - 1) == 0
    assert schedule(epochs - 2) > 0


def test_default_holds_for_half_of_the_training_then_falls_to_zero():
    schedule = EvolutionarySchedule(8)
    assert [schedule(epoch) for epoch in range(9)] == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]


@given(st.floats(0, 1e6), any_epoch)
def test_constant_stays(coefficient, epoch):
    schedule = ConstantSchedule(coefficient)
    schedule.step(epoch)
    assert schedule.coefficient == schedule(0) == coefficient


def test_steps_by_one_or_to_a_given_epoch():
    schedule = EvolutionarySchedule(10, hold=0)
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


def through_torch(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@given(settings(), st.integers(0, 20), st.integers(0, 20))
def test_resuming_equals_never_stopping(kwargs, before, after):
    uninterrupted = EvolutionarySchedule(**kwargs)
    for _ in range(before):
        uninterrupted.step()
    state = through_torch(uninterrupted.state_dict())
    assert state == uninterrupted.state_dict()
    # Built with other settings: the saved ones win, as in torch.optim.lr_scheduler.
    resumed = EvolutionarySchedule(7)
    resumed.load_state_dict(state)
    for _ in range(after):
        uninterrupted.step()
        resumed.step()
        assert resumed.coefficient == uninterrupted.coefficient
    assert resumed.state_dict() == uninterrupted.state_dict()


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
    schedule = EvolutionarySchedule(10, "step", hold=0, steps=2)
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


def test_examples_in_the_documentation():
    assert doctest.testmod(schedule_module).failed == 0


NAN, INF = math.nan, math.inf
FINITE = "must be a finite number that fits a float, not"


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs must be above 0, not 0."),
        ({"epochs": -2.5}, ValueError, "epochs must be above 0, not -2.5."),
        ({"epochs": NAN}, ValueError, f"epochs {FINITE} nan."),
        ({"epochs": INF}, ValueError, f"epochs {FINITE} inf."),
        ({"epochs": 10**400}, ValueError, f"epochs {FINITE} inf."),
        ({"epochs": True}, TypeError, "epochs must be a number, not bool: True."),
        ({"epochs": "90"}, TypeError, "epochs must be a number, not str: '90'."),
        ({"epochs": None}, TypeError, "epochs must be a number, not NoneType: None."),
        ({"start": -1}, ValueError, "start must be 0 or more, not -1."),
        ({"start": NAN}, ValueError, f"start {FINITE} nan."),
        ({"end": -0.1}, ValueError, "end must be 0 or more, not -0.1."),
        ({"end": INF}, ValueError, f"end {FINITE} inf."),
        (
            {"start": 0.1, "end": 1},
            ValueError,
            "start (0.1) must not be less than end (1.0): λ falls as training goes on. "
            "Swap the two.",
        ),
        (
            {"hold": 1},
            ValueError,
            "hold must be at least 0 and less than 1, not 1.0. It is the fraction of the training "
            "before λ falls, not a number of epochs.",
        ),
        ({"hold": -0.1}, ValueError, "hold must be at least 0 and less than 1, not -0.1."),
        ({"hold": NAN}, ValueError, f"hold {FINITE} nan."),
        ({"hold": False}, TypeError, "hold must be a number, not bool: False."),
        (
            {"finish": 0.5},
            ValueError,
            "finish must be above hold (0.5) and at most 1, not 0.5. It is the fraction of the "
            "training after which λ is end; for an earlier one, lower hold.",
        ),
        (
            {"finish": 1.1},
            ValueError,
            "finish must be above hold (0.5) and at most 1, not 1.1.",
        ),
        ({"finish": NAN}, ValueError, f"finish {FINITE} nan."),
        ({"rate": 0}, ValueError, "rate must be above 0, not 0."),
        ({"rate": INF}, ValueError, f"rate {FINITE} inf."),
        ({"steps": 0}, ValueError, "steps must be at least 1, not 0."),
        ({"steps": 2.5}, TypeError, "steps must be a whole number (an int), not 2.5."),
        ({"steps": True}, TypeError, "steps must be a number, not bool: True."),
        (
            {"shape": "Cosin"},
            ValueError,
            "unknown shape 'Cosin'; known are linear, cosine, exponential, step. "
            "Did you mean 'cosine'?",
        ),
        (
            {"shape": "zigzag"},
            ValueError,
            "unknown shape 'zigzag'; known are linear, cosine, exponential, step.",
        ),
        (
            {"shape": 0.5},
            TypeError,
            "shape must be one of linear, cosine, exponential, step, not float.",
        ),
    ],
)
def test_refuses_bad_settings(kwargs, error, message):
    with pytest.raises(error, match=re.escape(message)):
        EvolutionarySchedule(**{"epochs": 10, **kwargs})


@pytest.mark.parametrize(
    ("coefficient", "error", "message"),
    [
        (-0.5, ValueError, "coefficient must be 0 or more, not -0.5."),
        (NAN, ValueError, f"coefficient {FINITE} nan."),
        (INF, ValueError, f"coefficient {FINITE} inf."),
        (True, TypeError, "coefficient must be a number, not bool: True."),
    ],
)
def test_refuses_a_bad_constant(coefficient, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ConstantSchedule(coefficient)


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


def changed(**changes):
    return {**EvolutionarySchedule(10).state_dict(), **changes}


ADVICE = "Pass what state_dict() of EvolutionarySchedule returned."


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ([1, 2], TypeError, f"state must be a dict, not list. {ADVICE}"),
        (
            {"last_epoch": 3, "base_lrs": [0.1]},
            ValueError,
            f"state is not that of a schedule: no key 'schedule'. {ADVICE}",
        ),
        (
            ConstantSchedule().state_dict(),
            ValueError,
            f"state is that of ConstantSchedule, not of EvolutionarySchedule. {ADVICE}",
        ),
        (
            {"schedule": "EvolutionarySchedule", "last_epoch": 1, "epochs": 10, "shape": "linear"},
            ValueError,
            f"state lacks end, finish, hold, rate, start, steps. {ADVICE}",
        ),
        (changed(gamma=1, beta=2), ValueError, f"state has unknown keys: beta, gamma. {ADVICE}"),
        (changed(last_epoch=-1), ValueError, "last_epoch must be 0 or more, not -1."),
        (changed(last_epoch="1"), TypeError, "last_epoch must be a number, not str: '1'."),
        (changed(epochs=0, start=9.0), ValueError, "epochs must be above 0, not 0."),
        (changed(shape="line"), ValueError, "unknown shape 'line'"),
    ],
)
def test_a_refused_state_changes_nothing(state, error, message):
    schedule = EvolutionarySchedule(20, "cosine")
    schedule.step(4)
    before = schedule.state_dict()
    with pytest.raises(error, match=re.escape(message)):
        schedule.load_state_dict(state)
    assert schedule.state_dict() == before
