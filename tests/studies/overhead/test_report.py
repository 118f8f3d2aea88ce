"""The page of the study of costs."""

import pandas as pd
import pytest

from analysis.overhead import report


def row(ratio, low, high, aim):
    return pd.Series({"ratio": ratio, "ratio_low": low, "ratio_high": high, "aim": aim})


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (row(1.01, 1.00, 1.02, 1.02), "yes"),
        (row(1.01, 1.00, 1.03, 1.02), "yes, but within noise"),
        (row(1.03, 1.01, 1.05, 1.02), "**no**, but within noise"),
        (row(1.04, 1.03, 1.05, 1.02), "**no**"),
        (row(1.01, 0.99, 1.03, 1.0), "yes"),
        (row(1.02, 1.01, 1.03, 1.0), "**no**"),
    ],
)
def test_an_aim_is_met_or_missed_or_undecided(measured, verdict):
    assert report._verdict(measured) == verdict
