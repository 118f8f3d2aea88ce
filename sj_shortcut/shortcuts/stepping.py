"""Notice where a schedule is stepped too often, too rarely, or for another model."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from sj_shortcut.schedules import ShortcutSchedule, Trained
from sj_shortcut.shortcuts.forwards import Forwards
from sj_shortcut.shortcuts.telling import tell

__all__ = ["Stepping"]

_ONE_BATCH_EPOCHS = 5
# Epochs in a row that ended in more than one step.
_DOUBLE_STEPS = 2
# Evaluations without a step of the schedule, of which several may be of one epoch: at least, and at
# most; in between half of the epochs that it was made for.
_FEWEST, _MOST = 3, 10
# Lengths of the longest epoch so far after which the next step of the schedule is overdue.
_EPOCHS = 4


class Stepping:
    """Watches where the schedule of one loss stands, from one training loss to the next.

    Args:
        forwards: What the heads know of the model's forward passes.
    """

    def __init__(self, forwards: Forwards) -> None:
        self._forwards = forwards
        self._epoch: float | None = None
        self._first_coefficient: float | None = None
        self._evaluations = forwards.evaluations
        self._since_step = self._updates = 0
        self._short_epochs = self._double_steps = self._steps = 0
        self._usual = self._length = 0
        self._trainings = self._between = 0

    def look(
        self, root: nn.Module, schedule: ShortcutSchedule, updated: bool, same_batch: bool
    ) -> None:
        """Look at where a schedule stands before a training loss.

        Args:
            root: The wrapped model.
            schedule: The schedule of the loss.
            updated: Whether the model was updated since the loss before.
            same_batch: Whether the very batch of the loss before was fed again.
        """
        if self._epoch is None:
            self._of_another_model(root, schedule)
        self._updates += updated
        evaluations = self._forwards.evaluations - self._evaluations
        between, self._trainings = (
            self._forwards.trainings - self._trainings,
            self._forwards.trainings,
        )
        if schedule.last_epoch != self._epoch:
            self._moved(schedule, evaluations, same_batch, between)
            evaluations = 0
            self._epoch, self._evaluations = schedule.last_epoch, self._forwards.evaluations
            self._first_coefficient = schedule.coefficient
            self._since_step = self._updates = 0
        else:
            self._between = between
        self._steps = schedule.steps_taken
        self._since_step += 1
        if self._short_epochs >= _ONE_BATCH_EPOCHS and _hangs_on_epoch(schedule):
            tell(
                self._forwards,
                "per batch",
                "the schedule was stepped after each single batch: schedule.step() moves λ on by "
                "an epoch. Call it once an epoch, or step(epoch + batch / batches) to follow the "
                "training within one. (If your epochs are of one batch, all is well.)",
            )
        self._overdue(schedule, evaluations, same_batch)

    def _of_another_model(self, root: nn.Module, schedule: ShortcutSchedule) -> None:
        """Before the first loss: tell of a schedule that another model's training moved on."""
        if schedule.last_epoch > 0 and schedule.trained_by.is_not(root):
            tell(
                self._forwards,
                "shared schedule",
                f"another model was trained with this schedule, up to epoch {schedule.last_epoch}, "
                "and λ goes on from there instead of beginning anew: make a schedule for each "
                "model, as for each fold of a cross-validation. (If this model goes on with that "
                "training, all is well.)",
            )
        schedule.trained_by = Trained(root)

    def _moved(
        self, schedule: ShortcutSchedule, evaluations: int, same_batch: bool, between: int
    ) -> None:
        """After a step: whether it came after a single batch, or more than one came at once."""
        whole = self._epoch is not None and schedule.last_epoch - self._epoch >= 1
        # One batch, or the batches that gradients accumulate over.
        single = self._since_step == 1 or self._updates == 1
        short = whole and single and evaluations == 0 and not same_batch
        self._short_epochs = self._short_epochs + 1 if short else 0
        if whole:
            self._usual = max(self._usual, evaluations)
            self._length = max(self._length, self._since_step)
        # The first epoch may be one that is resumed, caught up with by steps.
        times = schedule.steps_taken - self._steps if whole else 0
        if self._between and between > 2 * self._between:
            times = 0  # other epochs came between, of another loss
        self._double_steps = self._double_steps + 1 if times > 1 else 0
        if self._double_steps >= _DOUBLE_STEPS and _hangs_on_epoch(schedule):
            tell(
                self._forwards,
                "double step",
                f"the schedule was stepped {times} times from one training loss to the next, and "
                "so the time before: each step() moves λ on by an epoch. Call it once an epoch; "
                "ShortcutCallback() calls it by itself, or give it step_schedule=False; a "
                "schedule that several losses share is stepped once for all of them.",
            )

    def _overdue(self, schedule: ShortcutSchedule, evaluations: int, same_batch: bool) -> None:
        """Whether the model is evaluated, or trained on, and the schedule not stepped."""
        half = _MOST if schedule.epochs is None else math.ceil(schedule.epochs / 2)
        # More than come in one epoch of the user's.
        enough = max(min(max(_FEWEST, half), _MOST), 3 * self._usual)
        # An evaluation for each batch is a part of its training step, whatever it is for.
        by_epoch = self._since_step > 2 * evaluations or same_batch
        often = evaluations >= enough and by_epoch
        much = self._length > 1 and self._since_step > _EPOCHS * self._length
        if (
            (often or much)
            and schedule.coefficient == self._first_coefficient  # it does not move by itself
            and _hangs_on_epoch(schedule)
        ):
            never = schedule.last_epoch == 0
            since = "was never stepped" if never else "was not stepped any more since"
            stays = "where it began" if never else f"as at epoch {schedule.last_epoch}"
            what = f"evaluated {evaluations} times" if often else "trained on"
            tell(
                self._forwards,
                "never stepped",
                f"the model was {what}, but the schedule {since}, "
                f"so λ stays {stays}: call criterion.schedule.step() after each epoch. (If "
                "you evaluate several times an epoch, all is well.)",
            )


def _hangs_on_epoch(schedule: ShortcutSchedule) -> bool:
    """Whether a step would ever change λ."""
    if not schedule.needs_steps or schedule.needs_losses:
        return schedule.needs_steps
    now: Any = schedule.coefficient
    return any(schedule(schedule.last_epoch + later) != now for later in (1, 10, 100, 1000))
