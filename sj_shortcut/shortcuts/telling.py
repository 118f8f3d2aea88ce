"""How a slip is told: once, as a warning of our own."""

from __future__ import annotations

import warnings

from sj_shortcut.shortcuts.forwards import Forwards
from sj_shortcut.torch_model import ShortcutWarning

__all__ = ["tell"]


def tell(forwards: Forwards, key: str, message: str) -> None:
    """Warn once a model and kind of slip.

    Args:
        forwards: What the heads of the model know of its forward passes.
        key: The kind of slip.
        message: The cause seen, and what to do.

    Warns:
        ShortcutWarning: If it is the first of its kind.
    """
    if key in forwards.said:
        return
    forwards.said.add(key)
    warnings.warn(message, ShortcutWarning, stacklevel=5)
