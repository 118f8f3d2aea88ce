"""What the tests of the ablation study share."""

import pytest

from analysis.ablation.plan import setting


@pytest.fixture
def vanilla():
    return setting("digits", "plain", 6, "atan")
