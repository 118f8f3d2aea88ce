"""Checks of the numbers that schedules are made of; they return builtins, as checkpoints want."""

from __future__ import annotations

import math
from numbers import Integral, Real

__all__ = [
    "epoch_number",
    "finite_number",
    "not_negative_number",
    "positive_number",
    "whole_number",
]


def finite_number(name: str, value: object) -> float:
    """Return a finite number as a builtin, so that NumPy's stay out of checkpoints.

    Args:
        name: What errors call it.
        value: The number.

    Returns:
        An int for a whole-number type, else a float.

    Raises:
        TypeError: If it is not a number; True and False are none.
        ValueError: If it is infinite, NaN, or too large for a float.

    Example:
        >>> import numpy as np
        >>> finite_number("start", np.float32(0.5))
        0.5
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}: {value!r}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number that fits a float, not {number}.")
    return int(value) if isinstance(value, Integral) else number


def not_negative_number(name: str, value: object) -> float:
    """Return a finite number of 0 or more; raises as :func:`finite_number`."""
    number = finite_number(name, value)
    if number < 0:
        raise ValueError(f"{name} must be 0 or more, not {number}.")
    return number


def positive_number(name: str, value: object) -> float:
    """Return a finite number above 0; raises as :func:`finite_number`."""
    number = finite_number(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be above 0, not {number}.")
    return number


def whole_number(name: str, value: object) -> int:
    """Return an int of 1 or more; raises as :func:`finite_number`."""
    number = finite_number(name, value)
    if not isinstance(number, int):
        raise TypeError(f"{name} must be a whole number (an int), not {number!r}.")
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}.")
    return number


def epoch_number(value: object, name: str = "epoch") -> float:
    """Return an epoch, 0 or more and perhaps fractional; raises as :func:`finite_number`."""
    number = finite_number(name, value)
    if number < 0:
        raise ValueError(f"{name} must be 0 or more, not {number}. The first epoch is 0.")
    return number
