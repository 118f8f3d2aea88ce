"""Fixtures of the tests of the examples."""

import importlib
import sys

import pytest

from tests.examples.scripts import EXAMPLES


@pytest.fixture
def example_modules(monkeypatch):
    """Import the scripts' modules as they do each other's."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    for name in list(sys.modules):
        if name in scripts or name.partition(".")[0] == "trainer":
            del sys.modules[name]
