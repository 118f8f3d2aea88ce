"""The category of this package's warnings."""

from __future__ import annotations

__all__ = ["ShortcutWarning"]


class ShortcutWarning(UserWarning):
    """Something makes heads useless or numbers meaningless, though training could go on.

    Each warning names the cause and what to do. ``warnings.simplefilter`` takes the category.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", ShortcutWarning)
        ...     # train here: what would have been a warning of this package is an error now
    """
