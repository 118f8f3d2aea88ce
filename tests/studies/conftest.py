"""The studies were run on SpikingJelly 2, but for two that are about both generations."""

from importlib.metadata import version
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ON_EITHER = ("common", "gpu", "zoo")
ELSEWHERE = pytest.mark.skip(reason="this study is run on SpikingJelly 2")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if version("spikingjelly").startswith("2"):
        return
    for item in items:
        if item.path.is_relative_to(HERE) and item.path.parent.name not in ON_EITHER:
            item.add_marker(ELSEWHERE)
