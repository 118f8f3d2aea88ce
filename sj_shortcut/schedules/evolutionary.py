"""λ that falls over a known number of epochs: evolutionary training.

Weighing the logits of shortcut branches by a coefficient that falls to 0 in a line, from the first
iteration to the last, is the evolutionary training of Guo et al., "Take A Shortcut Back:
Mitigating the Gradient Vanishing for Training Spiking Neural Networks" (NeurIPS 2024, arXiv
2401.04486).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

from sj_shortcut.schedules.base import ShortcutSchedule
from sj_shortcut.schedules.numbers import (
    epoch_number,
    finite_number,
    not_negative_number,
    positive_number,
    whole_number,
)
from sj_shortcut.torch_model.checks import did_you_mean
from sj_shortcut.torch_model.warnings import ShortcutWarning

__all__ = ["EvolutionarySchedule", "Shape"]

Shape = Literal["linear", "cosine", "exponential", "step"]

# Quotients like e / E carry rounding errors; without slack λ would fall or end an epoch late.
_SLACK = 1e-9


class EvolutionarySchedule(ShortcutSchedule):
    """λ falls from `start` to `end`: by default as in the paper, λ(i) = 0.25 (1 - i/I).

    That is its Eq. 10, where i counts iterations of I in all. To follow it by iterations and not
    by epochs, call `step(epoch + (batch + 1) / batches)` after each batch.

    With E = `epochs`, the fall runs from p = 0 to p = 1 between the epochs hold·E and finish·E:

        p(e) = (e/E - hold) / (finish - hold), kept within [0, 1]
        λ(e) = end + (start - end) · f(p)

        linear       f(p) = 1 - p
        cosine       f(p) = (1 + cos(π·p)) / 2
        exponential  f(p) = (exp(-rate·p) - exp(-rate)) / (1 - exp(-rate))
        step         f(p) = 1 - floor(steps·p) / steps

    All else is ours: the other shapes (the exponential is shifted and scaled to reach `end`
    exactly), `hold` and `finish`. `start=1, hold=0.5`, which leaves shallow layers half of the
    training before the output takes over, goes with `combine="loss"`, and served that better than
    the paper's values in the study (`analysis/ablation/results`).

    The last epoch is E - 1, and the last iteration I - 1, so with `finish=1` neither is trained
    with λ = `end`; λ(E) and all after are `end`. Where `combine="logits"` is stepped by
    iterations, λ is as good as 0 in the last one. Stepped by epochs, it needs an epoch in which it
    is exactly 0, or removing the branches changes the predictions: leave `end=0` and pass, say,
    `finish=0.9` to train the last tenth of the epochs without branches.

    Args:
        epochs: E, the length of the training, above 0.
        shape: How λ falls: "linear", "cosine", "exponential" or "step".
        start: λ at first, at least `end`.
        end: λ at last, 0 or more.
        hold: Fraction of the training before λ begins to fall, in [0, 1).
        finish: Fraction of the training after which λ is `end`, above `hold` and at most 1.
        rate: How steep the shape "exponential" is, above 0; unused by others.
        steps: How many equal steps the shape "step" falls in, at least 1; unused by others.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of range, or `shape` is unknown.

    Example:
        >>> schedule = EvolutionarySchedule(5)
        >>> [round(schedule(epoch), 2) for epoch in range(6)]
        [0.25, 0.2, 0.15, 0.1, 0.05, 0.0]
        >>> schedule = EvolutionarySchedule(10, start=1, hold=0.5)
        >>> [round(schedule(epoch), 2) for epoch in range(11)]
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
        >>> schedule = EvolutionarySchedule(10, "step", start=1, finish=0.8, steps=2)
        >>> [schedule(epoch) for epoch in range(10)]
        [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0]
    """

    epochs: float

    def __init__(
        self,
        epochs: float,
        shape: Shape = "linear",
        *,
        start: float = 0.25,
        end: float = 0.0,
        hold: float = 0.0,
        finish: float = 1.0,
        rate: float = 5.0,
        steps: int = 4,
    ) -> None:
        self.epochs = epochs
        self.shape = shape
        self.start = start
        self.end = end
        self.hold = hold
        self.finish = finish
        self.rate = rate
        self.steps = steps
        self._check()

    def __call__(self, epoch: float) -> float:
        """Return λ at an epoch, changing nothing.

        Args:
            epoch: Epochs trained so far, 0 at the start; may be fractional, or beyond `epochs`.

        Returns:
            The balance coefficient, between `end` and `start`.

        Raises:
            TypeError: If `epoch` is not a number.
            ValueError: If `epoch` is negative, infinite or NaN.
        """
        progress = (epoch_number(epoch) / self.epochs - self.hold) / (self.finish - self.hold)
        if progress <= 0:
            return self.start
        if progress >= 1 - _SLACK:
            return self.end
        # The minimum keeps the sum's rounding error from exceeding start.
        return min(self.start, self.end + (self.start - self.end) * self._remaining(progress))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a checkpoint, but for its length: the `epochs` of this schedule stay.

        So a training can be resumed for longer than it was planned: λ follows the new length from
        `last_epoch` on, and a warning names both. All other settings come from the checkpoint, as
        in the base class.

        Args:
            state: What `state_dict()` of an `EvolutionarySchedule` returned.

        Raises:
            TypeError: If `state` is no mapping, or holds a value of the wrong type.
            ValueError: If `state` is another class's or no schedule's at all, if keys are missing
                or unknown, or if a value is out of range.

        Example:
            >>> import warnings
            >>> schedule = EvolutionarySchedule(100, start=1)
            >>> schedule.step(50)
            >>> longer = EvolutionarySchedule(200)
            >>> with warnings.catch_warnings(record=True) as caught:
            ...     warnings.simplefilter("always")
            ...     longer.load_state_dict(schedule.state_dict())
            >>> longer.epochs, longer.start, longer.coefficient, len(caught)
            (200, 1.0, 0.75, 1)
        """
        restored = self._restored(state)
        if restored.epochs != self.epochs:
            warnings.warn(
                f"the checkpoint is of a schedule of {restored.epochs} epochs, and this one has "
                f"{self.epochs}, which it keeps: λ follows the new length from epoch "
                f"{restored.last_epoch} on. To go on as planned before, make the schedule with "
                f"epochs={restored.epochs}.",
                ShortcutWarning,
                stacklevel=2,
            )
        restored.epochs = self.epochs
        self._take_over(restored)

    def _remaining(self, progress: float) -> float:
        """Return f(p), the part of the fall still to come."""
        if self.shape == "linear":
            return 1 - progress
        if self.shape == "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        if self.shape == "exponential":
            # The documented formula, factored so that a tiny rate does not cancel to 0 / 0.
            late = math.expm1(self.rate * (progress - 1)) / math.expm1(-self.rate)
            return math.exp(-self.rate * progress) * late
        return 1 - math.floor(self.steps * progress + _SLACK) / self.steps

    def _check(self) -> None:
        self.epochs = positive_number("epochs", self.epochs)
        self.shape = _known_shape(self.shape)
        self.start = float(not_negative_number("start", self.start))
        self.end = float(not_negative_number("end", self.end))
        if self.start < self.end:
            raise ValueError(
                f"start ({self.start}) must not be less than end ({self.end}): λ falls as training "
                "goes on. Swap the two."
            )
        self.hold = float(finite_number("hold", self.hold))
        if not 0 <= self.hold < 1:
            raise ValueError(
                f"hold must be at least 0 and less than 1, not {self.hold}. It is the fraction of "
                "the training before λ falls, not a number of epochs."
            )
        self.finish = float(finite_number("finish", self.finish))
        if not self.hold < self.finish <= 1:
            raise ValueError(
                f"finish must be above hold ({self.hold}) and at most 1, not {self.finish}. It is "
                "the fraction of the training after which λ is end; for an earlier one, lower hold."
            )
        self.rate = float(positive_number("rate", self.rate))
        self.steps = whole_number("steps", self.steps)


def _known_shape(shape: object) -> Shape:
    known = get_args(Shape)
    if not isinstance(shape, str):
        raise TypeError(f"shape must be one of {', '.join(known)}, not {type(shape).__name__}.")
    if shape not in known:
        hint = did_you_mean(shape, known, count=1)
        raise ValueError(f"unknown shape {shape!r}; known are {', '.join(known)}.{hint}")
    return cast(Shape, shape)
