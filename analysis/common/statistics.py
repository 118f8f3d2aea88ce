"""What can be said of means of a few runs."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

__all__ = ["Difference", "welch"]


class Difference(NamedTuple):
    """A difference of means with its 95 % interval; NaN where runs are too few for one."""

    value: float
    low: float
    high: float


def welch(a: pd.Series, b: pd.Series) -> Difference:
    """Mean of ``a`` minus mean of ``b``, with Welch's interval: variances need not be equal.

    Args:
        a: One value a run.
        b: The same of what it is compared with. Runs are not paired.
    """
    value = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return Difference(value, math.nan, math.nan)
    shares = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    error = float(np.sqrt(shares.sum()))
    if error == 0:
        return Difference(value, value, value)
    freedom = shares.sum() ** 2 / (shares**2 / (np.array([len(a), len(b)]) - 1)).sum()
    half = float(stats.t.ppf(0.975, freedom)) * error
    return Difference(value, value - half, value + half)
