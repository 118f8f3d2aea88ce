"""λ that stays what it is."""

from __future__ import annotations

from typing import ClassVar

from sj_shortcut.schedules.base import ShortcutSchedule
from sj_shortcut.schedules.numbers import epoch_number, not_negative_number

__all__ = ["ConstantSchedule"]


class ConstantSchedule(ShortcutSchedule):
    """λ(e) = coefficient; 1 with `combine="logits"` is the paper's shortcut back-propagation.

    0 is vanilla training. With `combine="logits"` a constant above 0 trains the network together
    with its branches to the end, and removing them changes the predictions. There is no need to
    step it, and no harm in doing so.

    Args:
        coefficient: λ, 0 or more.

    Raises:
        TypeError: If `coefficient` is not a number.
        ValueError: If `coefficient` is negative, infinite or NaN.

    Example:
        >>> ConstantSchedule(0.5)(epoch=7)
        0.5
    """

    needs_steps: ClassVar[bool] = False

    def __init__(self, coefficient: float = 1.0) -> None:
        # Not named like the argument, as the base class's property is.
        self.value = coefficient
        self._check()

    def __call__(self, epoch: float) -> float:
        """Return the constant.

        Args:
            epoch: Epochs trained so far; checked, otherwise unused.

        Returns:
            The balance coefficient.

        Raises:
            TypeError: If `epoch` is not a number.
            ValueError: If `epoch` is negative, infinite or NaN.
        """
        epoch_number(epoch)
        return self.value

    def _check(self) -> None:
        self.value = float(not_negative_number("coefficient", self.value))

    def __repr__(self) -> str:
        return f"ConstantSchedule(coefficient={self.value!r}, last_epoch={self.last_epoch!r})"
