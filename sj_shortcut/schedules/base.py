"""The balance coefficient λ over the epochs of a training.

A schedule is a pure function of the epoch, `schedule(epoch) -> float`, in a thin stateful shell
that counts epochs as `torch.optim.lr_scheduler` does. Training epochs are 0, 1, ..., epochs - 1.

Weighing shortcut branches by a coefficient that falls as training goes on is the evolutionary
training of Guo et al., "Take A Shortcut Back: Mitigating the Gradient Vanishing for Training
Spiking Neural Networks" (NeurIPS 2024, arXiv 2401.04486).
"""

import copy
import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Literal, get_args

__all__ = ["ConstantSchedule", "EvolutionarySchedule", "Shape", "ShortcutSchedule"]

Shape = Literal["linear", "cosine", "exponential", "step"]

# Quotients like e / E carry rounding errors; without slack λ would fall or end an epoch late.
_SLACK = 1e-9


class ShortcutSchedule(ABC):
    """Base of all schedules; a subclass needs only a `__call__`.

    The state of a schedule is all of its attributes, so these should be numbers, strings and the
    like for `torch.load(..., weights_only=True)` to read a checkpoint.

    Example:
        >>> class Halving(ShortcutSchedule):
        ...     def __call__(self, epoch: float) -> float:
        ...         return 0.5**epoch
        >>> schedule = Halving()
        >>> schedule.step()
        >>> schedule.last_epoch, schedule.coefficient
        (1, 0.5)
    """

    last_epoch: float = 0

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """Return λ at an epoch, changing nothing.

        Args:
            epoch: Epochs trained so far, 0 at the start; may be fractional.

        Returns:
            The balance coefficient, finite and not negative.
        """

    @property
    def coefficient(self) -> float:
        """λ at `last_epoch`, which is what the next loss is weighed with."""
        return self(self.last_epoch)

    def step(self, epoch: float | None = None) -> None:
        """Move on to the next whole epoch, or to the one given.

        Args:
            epoch: Where to go, to follow λ within an epoch. By default the next whole epoch.

        Raises:
            TypeError: If `epoch` is not a number.
            ValueError: If `epoch` is negative, infinite or NaN.

        Example:
            >>> schedule = EvolutionarySchedule(10, hold=0)
            >>> schedule.step()
            >>> schedule.coefficient
            0.9
            >>> for batch in range(4):
            ...     schedule.step(1 + batch / 4)
            >>> schedule.last_epoch
            1.75
        """
        self.last_epoch = math.floor(self.last_epoch) + 1 if epoch is None else _epoch(epoch)

    def coefficient_of(self, head: str) -> float:
        """λ of one head at `last_epoch`; the same for all unless a subclass says otherwise.

        Args:
            head: Name of the head, as `shortcut_branches` gives it.
        """
        return self.coefficient

    def observe(self, losses: Mapping[str, Any]) -> None:  # noqa: B027, most have no use for it
        """Be told the terms of one training loss, for schedules that follow the training.

        `ShortcutLoss` calls this once a batch. A function of the epoch alone has no use for it.

        Args:
            losses: Detached scalar tensors by name: `ShortcutLoss.parts` of the batch.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the settings and the epoch for a checkpoint.

        Returns:
            A dict that shares nothing with the schedule. Those of this package's schedules hold
            strings and numbers only.
        """
        return {
            "schedule": type(self).__name__,
            "last_epoch": self.last_epoch,
            **copy.deepcopy(vars(self)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over settings and epoch of a checkpoint; a refused one changes nothing.

        As in `torch.optim.lr_scheduler`, the saved settings replace those of the constructor.

        Args:
            state: What `state_dict()` of a schedule of the same class returned.

        Raises:
            TypeError: If `state` is no mapping, or holds a value of the wrong type.
            ValueError: If `state` is another class's or no schedule's at all, if keys are missing
                or unknown, or if a value is out of range.

        Example:
            >>> schedule = EvolutionarySchedule(100)
            >>> schedule.step(30)
            >>> resumed = EvolutionarySchedule(100)
            >>> resumed.load_state_dict(schedule.state_dict())
            >>> resumed.last_epoch
            30
        """
        name = type(self).__name__
        advice = f"Pass what state_dict() of {name} returned."
        if not isinstance(state, Mapping):
            raise TypeError(f"state must be a dict, not {type(state).__name__}. {advice}")
        if "schedule" not in state:
            raise ValueError(f"state is not that of a schedule: no key 'schedule'. {advice}")
        if state["schedule"] != name:
            raise ValueError(f"state is that of {state['schedule']}, not of {name}. {advice}")
        expected = self.state_dict().keys()
        if missing := sorted(expected - state.keys()):
            raise ValueError(f"state lacks {', '.join(missing)}. {advice}")
        if unknown := sorted(str(key) for key in state.keys() - expected):
            raise ValueError(f"state has unknown keys: {', '.join(unknown)}. {advice}")

        restored = copy.copy(self)
        vars(restored).update(copy.deepcopy({k: v for k, v in state.items() if k != "schedule"}))
        restored.last_epoch = _epoch(restored.last_epoch, "last_epoch")
        restored._check()
        vars(self).update(vars(restored))

    def _check(self) -> None:  # noqa: B027, since a subclass may well have nothing to check
        """Validate the attributes; called on those of a checkpoint before they are taken over."""

    def __repr__(self) -> str:
        settings = {**vars(self), "last_epoch": self.last_epoch, "coefficient": self.coefficient}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"


class ConstantSchedule(ShortcutSchedule):
    """λ(e) = coefficient: shortcut back-propagation without evolutionary training.

    0 is vanilla training. With `combine="logits"` a constant above 0 trains the network together
    with its branches to the end, and removing them changes the predictions.

    Args:
        coefficient: λ, 0 or more.

    Raises:
        TypeError: If `coefficient` is not a number.
        ValueError: If `coefficient` is negative, infinite or NaN.

    Example:
        >>> ConstantSchedule(0.5)(epoch=7)
        0.5
    """

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
        _epoch(epoch)
        return self.value

    def _check(self) -> None:
        self.value = float(_not_negative("coefficient", self.value))

    def __repr__(self) -> str:
        return f"ConstantSchedule(coefficient={self.value!r}, last_epoch={self.last_epoch!r})"


class EvolutionarySchedule(ShortcutSchedule):
    """λ stays at `start`, then falls to `end`: the evolutionary training of the paper.

    With E = `epochs`, the fall runs from p = 0 to p = 1 between the epochs hold·E and finish·E:

        p(e) = (e/E - hold) / (finish - hold), kept within [0, 1]
        λ(e) = end + (start - end) · f(p)

        linear       f(p) = 1 - p
        cosine       f(p) = (1 + cos(π·p)) / 2
        exponential  f(p) = (exp(-rate·p) - exp(-rate)) / (1 - exp(-rate))
        step         f(p) = 1 - floor(steps·p) / steps

    Where the formulas come from: the paper's authors decay such weights by w·(E - e)/E or by a
    cosine in other code they released, and `hold=0` gives just these. What is public of the paper
    itself does not settle the shape. The exponential (shifted and scaled to reach `end` exactly),
    the steps, `hold` and `finish` are our choices. So is holding λ for half of the training by
    default, which gives the shallow layers time before the output takes over.

    The last training epoch is E - 1, so with `finish=1` no epoch is trained with λ = `end`; λ(E)
    and all after are `end`. `combine="logits"` needs epochs in which λ is exactly 0, or removing
    the branches changes the predictions: leave `end=0` and pass, say, `finish=0.9` to train the
    last tenth of the epochs without branches, or `finish=1 - 1 / epochs` for the last one only.

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
        >>> schedule = EvolutionarySchedule(10)
        >>> [round(schedule(epoch), 2) for epoch in range(11)]
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
        >>> schedule = EvolutionarySchedule(10, "step", hold=0, finish=0.8, steps=2)
        >>> [schedule(epoch) for epoch in range(10)]
        [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0]
    """

    def __init__(
        self,
        epochs: float,
        shape: Shape = "linear",
        *,
        start: float = 1.0,
        end: float = 0.0,
        hold: float = 0.5,
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
        progress = (_epoch(epoch) / self.epochs - self.hold) / (self.finish - self.hold)
        if progress <= 0:
            return self.start
        if progress >= 1 - _SLACK:
            return self.end
        # The minimum keeps the sum's rounding error from exceeding start.
        return min(self.start, self.end + (self.start - self.end) * self._remaining(progress))

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
        self.epochs = _positive("epochs", self.epochs)
        _check_shape(self.shape)
        self.start = float(_not_negative("start", self.start))
        self.end = float(_not_negative("end", self.end))
        if self.start < self.end:
            raise ValueError(
                f"start ({self.start}) must not be less than end ({self.end}): λ falls as training "
                "goes on. Swap the two."
            )
        self.hold = float(_number("hold", self.hold))
        if not 0 <= self.hold < 1:
            raise ValueError(
                f"hold must be at least 0 and less than 1, not {self.hold}. It is the fraction of "
                "the training before λ falls, not a number of epochs."
            )
        self.finish = float(_number("finish", self.finish))
        if not self.hold < self.finish <= 1:
            raise ValueError(
                f"finish must be above hold ({self.hold}) and at most 1, not {self.finish}. It is "
                "the fraction of the training after which λ is end; for an earlier one, lower hold."
            )
        self.rate = float(_positive("rate", self.rate))
        self.steps = _count("steps", self.steps)


def _number(name: str, value: object) -> float:
    """Return a finite number as a builtin, so that NumPy's stay out of checkpoints."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}: {value!r}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number that fits a float, not {number}.")
    return int(value) if isinstance(value, Integral) else number


def _not_negative(name: str, value: object) -> float:
    number = _number(name, value)
    if number < 0:
        raise ValueError(f"{name} must be 0 or more, not {number}.")
    return number


def _positive(name: str, value: object) -> float:
    number = _number(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be above 0, not {number}.")
    return number


def _count(name: str, value: object) -> int:
    number = _number(name, value)
    if not isinstance(number, int):
        raise TypeError(f"{name} must be a whole number (an int), not {number!r}.")
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}.")
    return number


def _epoch(value: object, name: str = "epoch") -> float:
    number = _number(name, value)
    if number < 0:
        raise ValueError(f"{name} must be 0 or more, not {number}. The first epoch is 0.")
    return number


def _check_shape(shape: object) -> None:
    known = get_args(Shape)
    if not isinstance(shape, str):
        raise TypeError(f"shape must be one of {', '.join(known)}, not {type(shape).__name__}.")
    if shape not in known:
        near = difflib.get_close_matches(shape.lower(), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown shape {shape!r}; known are {', '.join(known)}.{hint}")
