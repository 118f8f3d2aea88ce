import math
import re
import warnings
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sj_shortcut.schedules.constant import ConstantSchedule
from sj_shortcut.schedules.evolutionary import EvolutionarySchedule
from sj_shortcut.torch_model.warnings import ShortcutWarning
from tests.schedules.tools import FINITE, INF, NAN, through_torch

pytestmark = pytest.mark.filterwarnings(
    "ignore:EvolutionarySchedule is at epoch:sj_shortcut.torch_model.warnings.ShortcutWarning"
)
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
def test_linear_and_cosine_are_their_formulas(epochs, fraction, weight):
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
    schedule = EvolutionarySchedule(1, "exponential", start=1, rate=rate)
    floor = math.exp(-rate)
    expected = (math.exp(-rate * progress) - floor) / (1 - floor)
    assert schedule(progress) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("rate", [1e-300, 5e-324, 1e300])
def test_exponential_stands_extreme_rates(rate):
    schedule = EvolutionarySchedule(4, "exponential", start=1, rate=rate)
    values = [schedule(epoch) for epoch in range(5)]
    assert values[0] == 1
    assert values[-1] == 0
    assert values == sorted(values, reverse=True)


@given(st.integers(1, 300))
@example(49)
def test_each_step_falls_in_its_epoch_despite_rounding(epochs):
    schedule = EvolutionarySchedule(epochs, "step", start=1, steps=epochs)
    exact = [float(1 - Fraction(epoch, epochs)) for epoch in range(epochs + 1)]
    assert [schedule(epoch) for epoch in range(epochs + 1)] == pytest.approx(exact, abs=1e-12)


@given(st.integers(2, 500), st.sampled_from(SHAPES))
@example(49, "linear")
def test_finish_can_leave_exactly_the_last_epoch_at_the_end(epochs, shape):
    schedule = EvolutionarySchedule(epochs, shape, hold=0, finish=1 - 1 / epochs)
    assert schedule(epochs - 1) == 0
    assert schedule(epochs - 2) > 0


@given(st.integers(1, 400), st.integers(1, 100))
def test_default_is_the_papers_coefficient_at_every_iteration(epochs, batches):
    schedule = EvolutionarySchedule(epochs)
    i, iterations = 0, epochs * batches
    for epoch in range(min(epochs, 3)):
        for batch in range(batches):
            assert schedule.coefficient == pytest.approx(0.25 * (1 - i / iterations), abs=1e-9)
            schedule.step(epoch + (batch + 1) / batches)
            i += 1


def test_default_falls_in_a_line_to_exactly_zero():
    schedule = EvolutionarySchedule(4)
    assert [schedule(epoch) for epoch in range(6)] == [0.25, 0.1875, 0.125, 0.0625, 0, 0]


def test_half_of_the_training_can_be_held():
    schedule = EvolutionarySchedule(8, start=1, hold=0.5)
    assert [schedule(epoch) for epoch in range(9)] == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]


@given(settings(), st.integers(0, 20), st.integers(0, 20))
def test_resuming_equals_never_stopping(kwargs, before, after):
    uninterrupted = EvolutionarySchedule(**kwargs)
    for _ in range(before):
        uninterrupted.step()
    state = through_torch(uninterrupted.state_dict())
    assert state == uninterrupted.state_dict()
    # Built with other settings: the saved ones win but for the length, which is the same here.
    resumed = EvolutionarySchedule(kwargs["epochs"])
    resumed.load_state_dict(state)
    for _ in range(after):
        uninterrupted.step()
        resumed.step()
        assert resumed.coefficient == uninterrupted.coefficient
    assert resumed.state_dict() == uninterrupted.state_dict()


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
            {"hold": 0.5, "finish": 0.5},
            ValueError,
            "finish must be above hold (0.5) and at most 1, not 0.5. It is the fraction of the "
            "training after which λ is end; for an earlier one, lower hold.",
        ),
        (
            {"hold": 0.5, "finish": 1.1},
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


# A checkpoint of another length


@given(settings(), st.integers(1, 500), st.integers(0, 1000))
def test_the_new_length_wins_and_all_else_is_the_checkpoints(kwargs, epochs, at):
    saved = EvolutionarySchedule(**kwargs)
    saved.step(at)
    resumed = EvolutionarySchedule(epochs, "linear", start=3.0, end=0.5, hold=0.1, steps=9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ShortcutWarning)
        resumed.load_state_dict(through_torch(saved.state_dict()))
    assert resumed.state_dict() == {**saved.state_dict(), "epochs": epochs}
    expected = EvolutionarySchedule(**{**kwargs, "epochs": epochs})
    assert [resumed(e) for e in (0, epochs / 3, epochs)] == [
        expected(e) for e in (0, epochs / 3, epochs)
    ]
    assert resumed.coefficient == expected(at)
    assert len(caught) == (epochs != kwargs["epochs"])


def test_a_longer_training_is_told_of_with_both_lengths():
    saved = EvolutionarySchedule(10, start=1)
    saved.step(5)
    longer = EvolutionarySchedule(20)
    said = r"of a schedule of 10 epochs, and this one has 20, which it keeps.*from epoch 5 on"
    with pytest.warns(ShortcutWarning, match=said) as caught:
        longer.load_state_dict(saved.state_dict())
    assert len(caught) == 1 and caught[0].filename == __file__
    assert longer.coefficient == 0.75


def test_the_same_length_is_nothing_to_tell_of():
    saved = EvolutionarySchedule(10, "cosine", start=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EvolutionarySchedule(10.0).load_state_dict(saved.state_dict())


def test_a_warning_that_is_an_error_changes_nothing():
    resumed = EvolutionarySchedule(20, "cosine")
    resumed.step(3)
    before = resumed.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ShortcutWarning)
        with pytest.raises(ShortcutWarning):
            resumed.load_state_dict(EvolutionarySchedule(10).state_dict())
    assert resumed.state_dict() == before


def test_it_declares_its_length_and_that_it_is_stepped():
    schedule = EvolutionarySchedule(12)
    assert (schedule.epochs, schedule.needs_steps, schedule.needs_losses) == (12, True, False)
