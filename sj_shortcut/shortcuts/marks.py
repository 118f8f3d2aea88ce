"""Flags of a record that all records of its model are told of."""

from __future__ import annotations

from typing import Any

__all__ = ["mark"]


def mark(key: str) -> Any:
    """A flag by which a sequence of records may end: set, it sets ``forwards.marked`` as well.

    A sequence of T records then needs to be looked through only where something was marked, rather
    than T times.

    Args:
        key: The attribute that holds the flag.
    """

    def read(record: Any) -> bool:
        return bool(getattr(record, key))

    def write(record: Any, value: bool) -> None:
        setattr(record, key, value)
        if value:
            record.forwards.marked = True

    return property(read, write)
