"""What a user is told of a mistake, to the last word."""

import re
from typing import Any

import pytest


def refused(kind: type[Exception], sentence: str) -> Any:
    """A block that must raise this, with this message and no other."""
    return pytest.raises(kind, match=rf"\A{re.escape(sentence)}\Z")
