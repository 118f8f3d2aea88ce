"""Welch's interval."""

import math

import pandas as pd
import pytest
from scipy import stats

from analysis.common.statistics import mean_of_differences, welch


def test_it_is_that_of_scipy() -> None:
    a, b = pd.Series([0.1, 0.5, 0.9, 0.2]), pd.Series([0.3, 0.31, 0.35])
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    found = welch(a, b)
    assert found.value == pytest.approx(a.mean() - b.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_single_run_has_no_interval() -> None:
    found = welch(pd.Series([0.5, 0.7]), pd.Series([0.4]))
    assert found.value == pytest.approx(0.2) and math.isnan(found.low) and math.isnan(found.high)


def test_runs_that_are_all_alike_differ_for_sure() -> None:
    assert welch(pd.Series([0.5, 0.5]), pd.Series([0.25, 0.25])) == (0.25, 0.25, 0.25)


def test_the_mean_of_settings_alike_is_surer_than_each() -> None:
    pair = pd.Series([0.1, 0.5, 0.9]), pd.Series([0.3, 0.4, 0.2])
    other = pair[0] + 0.1, pair[1] - 0.1
    one, both = welch(*pair), mean_of_differences([pair, other])
    assert both.value == pytest.approx(one.value + 0.1)
    assert both.high - both.value < (one.high - one.value) / 2**0.5  # freedoms add up as well
    assert math.isnan(mean_of_differences([pair, (pair[0], pd.Series([0.4]))]).low)
