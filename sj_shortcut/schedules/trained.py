"""Which model was trained with a schedule."""

from __future__ import annotations

import weakref
from typing import Any

__all__ = ["Trained"]


class Trained:
    """A model, held weakly. Copied or pickled, it is of none: whose the copy will be is not known.

    Args:
        model: The model, ``None`` where there was none yet.
    """

    def __init__(self, model: Any = None) -> None:
        self._model = None if model is None else weakref.ref(model)

    def is_not(self, model: Any) -> bool:
        """Whether it was another model, which may be gone by now.

        Args:
            model: The one to compare with.
        """
        return self._model is not None and self._model() is not model

    def __reduce__(self) -> Any:
        return Trained, ()
