"""At which training steps to measure."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["When", "as_predicate", "every_steps", "log_spaced_steps"]

When = int | Callable[[int], bool]


def every_steps(count: int, start: int = 0) -> Callable[[int], bool]:
    """Measure every ``count`` training steps; ``every_steps(len(loader))`` is once an epoch.

    Args:
        count: Steps from one measurement to the next.
        start: The first step to measure; steps count from 0.

    Returns:
        A predicate of the step, for ``GradientRecorder(when=...)``.

    Raises:
        ValueError: If ``count`` is less than 1 or ``start`` less than 0.

    Example:
        >>> [step for step in range(10) if every_steps(3)(step)]
        [0, 3, 6, 9]
    """
    if count < 1 or start < 0:
        raise ValueError(f"count must be at least 1 and start at least 0, got {count}, {start}.")
    return lambda step: step >= start and (step - start) % count == 0


def log_spaced_steps(per_decade: int = 10) -> Callable[[int], bool]:
    """Measure often at first, then ever more rarely: evenly on a logarithmic axis.

    Args:
        per_decade: Measurements between step 10 and 100, 100 and 1000, and so on.

    Returns:
        A predicate of the step, for ``GradientRecorder(when=...)``.

    Raises:
        ValueError: If ``per_decade`` is less than 1.

    Example:
        >>> [step for step in range(100) if log_spaced_steps(4)(step)]
        [0, 1, 2, 3, 6, 10, 18, 32, 56]
    """
    if per_decade < 1:
        raise ValueError(f"per_decade must be at least 1, got {per_decade}.")

    def due(step: int) -> bool:
        if step < 1:
            return step == 0
        nearest = round(per_decade * math.log10(step))
        return any(round(10 ** (k / per_decade)) == step for k in range(nearest - 1, nearest + 2))

    return due


def as_predicate(when: When) -> Callable[[int], bool]:
    """The predicate that an argument ``when`` stands for.

    Raises:
        TypeError: If it is neither a number nor callable.
        ValueError: If it is a number below 1.
    """
    if isinstance(when, bool) or not (isinstance(when, int) or callable(when)):
        raise TypeError(
            "when must be a number of steps or a predicate of the step, such as every_steps(100), "
            f"got {when!r}."
        )
    return every_steps(when) if isinstance(when, int) else when
