"""What can be said of means of a few runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

__all__ = ["Difference", "mean_of_differences", "welch"]


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
    return mean_of_differences([(a, b)])


def mean_of_differences(pairs: Sequence[tuple[pd.Series, pd.Series]]) -> Difference:
    """Differences as of :func:`welch` in several settings, averaged, with an interval of that mean.

    It says how sure the mean over these very settings is, not what it would be in others.
    """
    value = float(np.mean([a.mean() - b.mean() for a, b in pairs]))
    groups = [group for pair in pairs for group in pair]
    sizes = np.array([len(group) for group in groups])
    if sizes.min() < 2:
        return Difference(value, math.nan, math.nan)
    variances = np.array([group.var(ddof=1) for group in groups])
    shares = variances / sizes / len(pairs) ** 2
    error = float(np.sqrt(shares.sum()))
    if error == 0:
        return Difference(value, value, value)
    freedom = shares.sum() ** 2 / (shares**2 / (sizes - 1)).sum()
    half = float(stats.t.ppf(0.975, freedom)) * error
    return Difference(value, value - half, value + half)
