"""The page of the table."""

from typing import Any


def page(found: Any) -> str:
    return ""
