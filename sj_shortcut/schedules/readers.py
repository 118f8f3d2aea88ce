"""Who is told when λ has moved: what keeps it where code reads it that runs without Python."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

__all__ = ["Reader", "Readers"]


class Reader(Protocol):
    """What keeps λ for captured and compiled code."""

    def follow(self, schedule: Any) -> None:
        """Take over where the schedule stands."""


class Readers:
    """Some readers, held weakly. Copied or pickled, it holds the copies of those that still live.

    Args:
        readers: The first ones.
    """

    def __init__(self, readers: Iterable[Reader] = ()) -> None:
        self._refs = [weakref.ref(reader) for reader in readers]

    def __iter__(self) -> Iterator[Reader]:
        return iter([reader for ref in self._refs if (reader := ref()) is not None])

    def __reduce__(self) -> Any:
        return Readers, (list(self),)

    def having(self, reader: Reader) -> Readers:
        """These and one more."""
        return Readers([*self.without(reader), reader])

    def without(self, reader: Reader) -> Readers:
        """These but for one."""
        return Readers([other for other in self if other is not reader])
