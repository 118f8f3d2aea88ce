"""The balance coefficient λ over the epochs of a training: what all schedules have in common.

A schedule is a pure function of the epoch, `schedule(epoch) -> float`, in a thin stateful shell
that counts epochs as `torch.optim.lr_scheduler` does. Training epochs are 0, 1, ..., epochs - 1.
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import Tensor

from sj_shortcut.schedules.numbers import epoch_number
from sj_shortcut.schedules.readers import Reader, Readers
from sj_shortcut.schedules.trained import Trained
from sj_shortcut.torch_model.warnings import ShortcutWarning

__all__ = ["ShortcutSchedule"]


class ShortcutSchedule(ABC):
    """Base of all schedules; a subclass needs only a `__call__`.

    The state of a schedule is all of its attributes, so these should be numbers, strings and the
    like for `torch.load(..., weights_only=True)` to read a checkpoint.

    What a schedule needs it declares, so that no one has to ask for its class.

    Attributes:
        needs_losses: Whether it follows the losses of the heads, which `observe` tells it. Set
            this where you override `observe`: `combine="logits"`, which has none, is refused then.
        needs_steps: Whether `step` must be called for λ to be right. False only where λ does not
            hang on the epoch.
        epochs: Length of the training it was made for, after which λ does not change; None where
            training may go on as long as it likes. Give it in your `__init__`, if there is one.
        last_epoch: Epochs trained so far.

    Example:
        >>> class Halving(ShortcutSchedule):
        ...     def __call__(self, epoch: float) -> float:
        ...         return 0.5**epoch
        >>> schedule = Halving()
        >>> schedule.step()
        >>> schedule.last_epoch, schedule.coefficient
        (1, 0.5)
    """

    needs_losses: ClassVar[bool] = False
    needs_steps: ClassVar[bool] = True
    epochs: float | None = None
    last_epoch: float = 0

    # Not in the state: what a schedule keeps for itself alone.
    _unsaved: ClassVar[tuple[str, ...]] = ("_warned", "_readers", "steps_taken", "trained_by")
    _warned: bool = False
    _readers: Readers = Readers()
    # What the watch over a training asks: calls of `step()`, and for whom.
    steps_taken: int = 0
    trained_by: Trained = Trained()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "step" in cls.__dict__:  # which may change λ after that of the base class has ended
            cls.step = _and_tell(cls.step)  # type: ignore[method-assign]

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

        Going beyond `epochs` is warned of once: λ has come to its end there, and most likely the
        schedule is stepped once a batch.

        Args:
            epoch: Where to go, to follow λ within an epoch. By default the next whole epoch.

        Raises:
            TypeError: If `epoch` is not a number.
            ValueError: If `epoch` is negative, infinite or NaN.

        Example:
            >>> from sj_shortcut import EvolutionarySchedule
            >>> schedule = EvolutionarySchedule(10, start=1)
            >>> schedule.step()
            >>> schedule.coefficient
            0.9
            >>> for batch in range(4):
            ...     schedule.step(1 + batch / 4)
            >>> schedule.last_epoch
            1.75
        """
        self.last_epoch = math.floor(self.last_epoch) + 1 if epoch is None else epoch_number(epoch)
        self.steps_taken += epoch is None
        # Where `epochs` is no whole number, its last epoch ends after it.
        if self.epochs is not None and self.last_epoch > math.ceil(self.epochs):
            self._warn_beyond_the_end(self.epochs)
        if type(self).step is ShortcutSchedule.step:
            self._tell_readers()

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

    def expect(self, names: Sequence[str], like: Tensor) -> None:  # noqa: B027, likewise
        """Be told beforehand which losses compiled or captured code will observe.

        A captured graph runs no Python when it is replayed, so what it adds up must lie in tensors
        that are there before.

        Args:
            names: Of the losses: `"main"` and the heads.
            like: A tensor of their dtype, on their device.
        """

    def add_reader(self, reader: Reader) -> None:
        """Tell a reader where λ stands, now and whenever `step` or a checkpoint has moved it.

        Args:
            reader: Is held weakly.
        """
        reader.follow(self)  # first, for an error there
        self._readers = self._readers.having(reader)

    def remove_reader(self, reader: Reader) -> None:
        """Tell it nothing any more.

        Args:
            reader: One that was added, or any other.
        """
        self._readers = self._readers.without(reader)

    def state_dict(self) -> dict[str, Any]:
        """Return the settings and the epoch for a checkpoint.

        Returns:
            A dict that shares nothing with the schedule. Those of this package's schedules hold
            strings and numbers only.
        """
        return {
            "schedule": type(self).__name__,
            "last_epoch": self.last_epoch,
            **copy.deepcopy(self._saved()),
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
            >>> from sj_shortcut import EvolutionarySchedule
            >>> schedule = EvolutionarySchedule(100)
            >>> schedule.step(30)
            >>> resumed = EvolutionarySchedule(100)
            >>> resumed.load_state_dict(schedule.state_dict())
            >>> resumed.last_epoch
            30
        """
        self._take_over(self._restored(state))

    def _saved(self) -> dict[str, Any]:
        """The attributes that are in the state: all but a few that the class lists."""
        return {name: value for name, value in vars(self).items() if name not in self._unsaved}

    def _restored(self, state: Mapping[str, Any]) -> Self:
        """A schedule in the state of a checkpoint, or an error; this one stays as it is."""
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
        restored.last_epoch = epoch_number(restored.last_epoch, "last_epoch")
        restored._check()
        return restored

    def _take_over(self, restored: Self) -> None:
        vars(self).update(vars(restored))
        self._tell_readers()

    def _tell_readers(self) -> None:
        for reader in self._readers:
            reader.follow(self)

    def _warn_beyond_the_end(self, epochs: float) -> None:
        if self._warned:
            return
        self._warned = True
        warnings.warn(
            f"{type(self).__name__} is at epoch {self.last_epoch} of a training of {epochs} epochs "
            f"(epochs={epochs}): λ is at its end, {self.coefficient}, and stays there. Is it "
            "stepped once a batch? Call step() once an epoch, or step(epoch + batch / batches) "
            "within one. If training is longer, make the schedule with its number of epochs.",
            ShortcutWarning,
            stacklevel=3,
        )

    def _check(self) -> None:  # noqa: B027, since a subclass may well have nothing to check
        """Validate the attributes; called on those of a checkpoint before they are taken over."""

    def __repr__(self) -> str:
        settings = {**self._saved(), "last_epoch": self.last_epoch, "coefficient": self.coefficient}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"


def _and_tell(step: Callable[..., None]) -> Callable[..., None]:
    """The `step` of a subclass, after which readers of λ are told, also where it ends in an error.

    Only once the step of the schedule's own class is through: in between λ may not be known.
    """

    @functools.wraps(step)
    def step_and_tell(self: ShortcutSchedule, *args: Any, **kwargs: Any) -> None:
        try:
            step(self, *args, **kwargs)
        finally:
            if type(self).step is step_and_tell:
                self._tell_readers()

    return step_and_tell
