import re
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from sj_shortcut.schedules.numbers import (
    epoch_number,
    finite_number,
    not_negative_number,
    positive_number,
    whole_number,
)
from tests.schedules.tools import FINITE, INF, NAN


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3, int),
        (0.5, float),
        (np.int32(3), int),
        (np.float32(0.5), float),
        (np.float64(0.5), float),
        (Fraction(1, 2), float),
    ],
)
def test_numbers_become_builtins(value, kind):
    number = finite_number("it", value)
    assert type(number) is kind and number == value


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (NAN, ValueError, f"it {FINITE} nan."),
        (-INF, ValueError, f"it {FINITE} -inf."),
        (10**400, ValueError, f"it {FINITE} inf."),
        (True, TypeError, "it must be a number, not bool: True."),
        (np.bool_(True), TypeError, "it must be a number, not bool"),
        ("3", TypeError, "it must be a number, not str: '3'."),
        (1j, TypeError, "it must be a number, not complex: 1j."),
        (Decimal(1), TypeError, "it must be a number, not Decimal"),
        (np.ones(1), TypeError, "it must be a number, not ndarray"),
    ],
)
@pytest.mark.parametrize(
    "check", [finite_number, not_negative_number, positive_number, whole_number]
)
def test_what_is_no_finite_number_is_refused(check, value, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        check("it", value)


def test_ranges():
    assert not_negative_number("it", 0) == 0 and positive_number("it", 1e-300) == 1e-300
    assert whole_number("it", np.int64(1)) == 1 and epoch_number(2.5) == 2.5
    with pytest.raises(ValueError, match=r"^it must be 0 or more, not -1e-300\.$"):
        not_negative_number("it", -1e-300)
    with pytest.raises(ValueError, match=r"^it must be above 0, not 0\.$"):
        positive_number("it", 0)
    with pytest.raises(ValueError, match=r"^it must be at least 1, not 0\.$"):
        whole_number("it", 0)
    with pytest.raises(TypeError, match=r"^it must be a whole number \(an int\), not 1\.0\.$"):
        whole_number("it", 1.0)
    with pytest.raises(ValueError, match=r"^epoch must be 0 or more.*The first epoch is 0\.$"):
        epoch_number(-1)
    with pytest.raises(TypeError, match="^last_epoch must be a number"):
        epoch_number(None, "last_epoch")
