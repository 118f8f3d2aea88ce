import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sj_shortcut.schedules.constant import ConstantSchedule
from tests.schedules.tools import FINITE, INF, NAN


@given(st.floats(0, 1e6), st.integers(0, 2000) | st.floats(0, 2000))
def test_constant_stays(coefficient, epoch):
    schedule = ConstantSchedule(coefficient)
    schedule.step(epoch)
    assert schedule.coefficient == schedule(0) == coefficient


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


def test_it_needs_neither_steps_nor_losses_and_has_no_length():
    schedule = ConstantSchedule()
    assert (schedule.epochs, schedule.needs_steps, schedule.needs_losses) == (None, False, False)


def test_it_may_be_stepped_for_ever():
    schedule = ConstantSchedule(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(1000):
            schedule.step()
    assert (schedule.last_epoch, schedule.coefficient) == (1000, 0.5)
