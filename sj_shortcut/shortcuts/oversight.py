"""Notice slips that would make heads useless without any error, and say so once.

Nothing here waits for the device in a training step, but where a slip is likely already.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sj_shortcut.schedules import ShortcutSchedule
from sj_shortcut.shortcuts.branch import ShortcutBranch
from sj_shortcut.shortcuts.forwards import Forwards, Record
from sj_shortcut.shortcuts.movement import Movement, own_parameters
from sj_shortcut.torch_model import ShortcutWarning

__all__ = [
    "Oversight",
    "own_parameters",
    "tell",
    "watch_for_unused_heads",
]

# Losses of training after which heads that stay where they are are looked at.
_FIRST_LOOK = 4
# Loss of training from which on a new look begins, at powers of two.
_NEXT_LOOK = 16
# Losses of training within which an optimizer that holds the heads should have stepped once.
_RARE_STEPS = 512
_NEVER_RAN = 10
_ONE_BATCH_EPOCHS = 5
# Evaluations without a step of the schedule; three may well be of one epoch.
_EVALUATIONS = 4
# Lengths of the longest epoch so far after which the next step of the schedule is overdue.
_EPOCHS = 4
# Updates of the model, or backward passes, after which heads that no loss uses are told of.
_UPDATES, _BACKWARDS = 5, 30


def tell(forwards: Forwards, key: str, message: str) -> None:
    """Warn once a model and kind of slip."""
    if key in forwards.said:
        return
    forwards.said.add(key)
    warnings.warn(message, ShortcutWarning, stacklevel=5)


class Oversight:
    """Watches the training calls of one loss.

    Args:
        forwards: What the heads know of the model's forward passes.
    """

    def __init__(self, forwards: Forwards) -> None:
        self._begin(forwards)

    def _begin(self, forwards: Forwards) -> None:
        self._forwards = forwards
        self._calls = 0
        self._never_ran: set[str] | None = None
        self._epoch: float | None = None
        self._first_coefficient: float | None = None
        self._evaluations = forwards.evaluations
        self._since_step = self._updates = self._short_epochs = 0
        self._usual = self._length = 0
        self._sentinel: nn.Parameter | None = None
        self._version = -1
        self._movement: Movement | None = None
        self._settled = self._same_batch = False
        self._first = True
        self._fed: Callable[[], Tensor | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy begins to look anew: what waits for a device cannot be copied.
        return {**vars(self), "_fed": None, "_movement": None, "_settled": False}

    def training(
        self,
        root: nn.Module,
        branches: Callable[[], Mapping[str, ShortcutBranch]],
        records: Sequence[Record],
        used: Mapping[str, float],
        schedule: ShortcutSchedule,
    ) -> None:
        """Look at one training call, before its loss is computed.

        Args:
            root: The wrapped model.
            branches: Finds the heads by name.
            records: The forwards of this call.
            used: The heads whose weight is not 0.
            schedule: Where the loss's schedule stands.
        """
        if records[0].forwards is not self._forwards:  # the model was wrapped anew
            self._begin(records[0].forwards)
        self._calls += 1
        if not self._calls & (self._calls - 1):  # they may be frozen later, too
            self._frozen(branches())
        self._resting(records)
        self._count_updates(root)
        fed = self._forwards.fed
        # Epochs of one batch, as with all data at once; else each batch is a tensor of its own.
        before = None if self._fed is None else self._fed()
        self._same_batch = before is not None and fed is not None and fed() is before
        self._fed = fed
        self._optimizer(root, branches, used)
        self._schedule(schedule)

    def targets(self, output: Tensor, target: Any) -> None:
        """Before the first training loss: tell of a model that reconstructs its input.

        Its output is as wide as its input and taken for as many classes. The values are looked at
        only then, and once, as the first batch is.
        """
        forwards = self._forwards
        first, self._first = self._first, False
        if not first or forwards.num_classes is None or not isinstance(target, Tensor):
            return
        x = None if forwards.fed is None else forwards.fed()
        if x is None or not target.is_floating_point() or target.shape != output.shape:
            return
        width = target.shape[-1]
        is_input = (target if target._base is None else target._base) is x
        pixels = width != x.shape[-1] and width in (x[:1].numel(), x[:1, :1].numel())
        if is_input or pixels or (width == x.shape[-1] and not _are_classes(target)):
            tell(
                forwards,
                "reconstruction",
                f"the target of this loss is as wide as the model's input, {width}, and "
                "holds no classes: of a model that reconstructs its input (an autoencoder), heads "
                "would be trained to do so from pooled shallow features. Shortcut heads need class "
                "logits: wrap a classifier, or pass num_classes= if this is meant.",
            )

    def _frozen(self, branches: Mapping[str, ShortcutBranch]) -> None:
        for name, branch in branches.items():
            own = list(branch.parameters())
            if own and not any(parameter.requires_grad for parameter in own):
                tell(
                    self._forwards,
                    "frozen",
                    f"the shortcut head at '{name}' is frozen: none of its parameters requires a "
                    "gradient, so it will not learn the classes. Let them train: for p in "
                    "shortcut_parameters(model): p.requires_grad_(True), before the optimizer is "
                    "built.",
                )

    def _resting(self, records: Iterable[Record]) -> None:
        for record in records:
            for name in record.asleep:
                tell(
                    self._forwards,
                    f"asleep {name}",
                    f"the shortcut head at '{name}' had no part in this loss: its module was in "
                    "eval mode in the forward, while the model trains. Heads run where their "
                    "module trains: call train() on it, or choose other points with at=.",
                )
            if self._never_ran is None:
                self._never_ran = set(self._forwards.names)
            self._never_ran -= record.logits.keys()
        if self._calls == _NEVER_RAN and self._never_ran:
            name = min(self._never_ran)
            tell(
                self._forwards,
                "never ran",
                f"the shortcut head at '{name}' has not run in {_NEVER_RAN} training steps: its "
                "module is never called in training, or around its hooks. Choose another point.",
            )

    def _count_updates(self, root: nn.Module) -> None:
        """By the version of one parameter, which tells for nothing."""
        if self._calls == 1:
            self._sentinel = next((p for p in own_parameters(root) if p.requires_grad), None)
        if self._sentinel is not None and self._sentinel._version != self._version:
            self._version = self._sentinel._version
            self._updates += self._calls > 1

    def _optimizer(
        self,
        root: nn.Module,
        branches: Callable[[], Mapping[str, ShortcutBranch]],
        used: Mapping[str, float],
    ) -> None:
        if self._movement is None:
            if used:
                found = branches()
                self._movement = Movement(root, {name: found[name] for name in used})
            return
        if self._settled:
            if self._calls >= _NEXT_LOOK and not self._calls & (self._calls - 1):
                self._movement, self._settled = None, False  # there may be another optimizer
            return
        calls = self._movement.count(used)
        if calls < _FIRST_LOOK or calls & (calls - 1):  # powers of two, ever more rarely
            return
        behind = self._movement.left_behind()
        unmoved = self._movement.unmoved() if behind == [] else None
        self._settled = (unmoved if behind == [] else behind) is not None
        if not behind and not unmoved:
            return
        if not self._movement.is_of(branches()):  # heads were replaced meanwhile
            self._movement, self._settled = None, False
            return
        if unmoved:
            tell(
                self._forwards,
                "learning rate",
                f"the shortcut heads at {', '.join(map(repr, unmoved))} stay where they are, "
                "though the optimizer steps them and other parameters of the model change: is "
                "their learning rate 0? Give their group of parameters one, "
                'optimizer.add_param_group({"params": ..., "lr": ...}), or leave out "lr".',
            )
            return
        assert behind is not None
        if calls < _RARE_STEPS and self._movement.is_held(behind):
            self._settled = False  # by an optimizer that has not stepped yet
            return
        some = "" if len(behind) == len(used) else f" at {', '.join(map(repr, behind))}"
        tell(
            self._forwards,
            "optimizer",
            f"the optimizer does not hold the shortcut heads{some}: other parameters of the model "
            "change, theirs do not. Build the optimizer after wrap_with_shortcuts, or add them: "
            'optimizer.add_param_group({"params": list(shortcut_parameters(model))}).',
        )

    def _schedule(self, schedule: ShortcutSchedule) -> None:
        forwards = self._forwards
        evaluations = forwards.evaluations - self._evaluations
        if schedule.last_epoch != self._epoch:
            whole = self._epoch is not None and schedule.last_epoch - self._epoch >= 1
            # One batch, or the batches that gradients accumulate over.
            single = self._since_step == 1 or self._updates == 1
            short = whole and single and evaluations == 0 and not self._same_batch
            self._short_epochs = self._short_epochs + 1 if short else 0
            if whole:
                self._usual = max(self._usual, evaluations)
                self._length = max(self._length, self._since_step)
            self._first_coefficient = schedule.coefficient
            self._epoch, self._evaluations = schedule.last_epoch, forwards.evaluations
            self._since_step = self._updates = 0
        if self._first_coefficient is None:
            self._first_coefficient = schedule.coefficient
        self._since_step += 1
        if self._short_epochs >= _ONE_BATCH_EPOCHS and _hangs_on_epoch(schedule):
            tell(
                forwards,
                "per batch",
                "the schedule was stepped after each single batch: schedule.step() moves λ on by "
                "an epoch. Call it once an epoch, or step(epoch + batch / batches) to follow the "
                "training within one. (If your epochs are of one batch, all is well.)",
            )
        # As many as its epochs, but more than come in one epoch of the user's.
        enough = max(min(_EVALUATIONS, schedule.epochs or _EVALUATIONS), 3 * self._usual)
        much = self._length > 1 and self._since_step > _EPOCHS * self._length
        if (
            (evaluations >= enough or much)
            and schedule.coefficient == self._first_coefficient  # it does not move by itself
            and _hangs_on_epoch(schedule)
        ):
            never = schedule.last_epoch == 0
            since = "was never stepped" if never else "was not stepped any more since"
            stays = "where it began" if never else f"as at epoch {schedule.last_epoch}"
            what = f"evaluated {evaluations} times" if evaluations >= enough else "trained on"
            tell(
                forwards,
                "never stepped",
                f"the model was {what}, but the schedule {since}, "
                f"so λ stays {stays}: call criterion.schedule.step() after each epoch. (If "
                "you evaluate several times an epoch, all is well.)",
            )


def _are_classes(target: Tensor) -> bool:
    """Whether rows of numbers are classes: hot or not, of any two values, or probabilities."""
    with torch.no_grad():
        hot = ((target == target.amin()) | (target == target.amax())).all()
        shares = (target >= 0).all() & ((target.sum(-1) - 1).abs() < 1e-3).all()
        return bool(hot | shares)


def _hangs_on_epoch(schedule: ShortcutSchedule) -> bool:
    """Whether a step would ever change λ."""
    if not schedule.needs_steps or schedule.needs_losses:
        return schedule.needs_steps
    now = schedule.coefficient
    return any(schedule(schedule.last_epoch + later) != now for later in (1, 10, 100, 1000))


def watch_for_unused_heads(root: nn.Module, forwards: Forwards) -> None:
    """Before a training forward: tell where the model is trained by a loss that uses no head."""
    if forwards.used or "unused" in forwards.said:
        return
    if forwards.sentinel is None:
        forwards.sentinel = next((p for p in own_parameters(root) if p.requires_grad), None)
        if forwards.sentinel is None:
            return
    last = forwards.last
    if last is None or not (last.spent and last.logits):
        return  # no gradient went through it: a teacher, say, which follows its student
    forwards.backwards += 1
    if forwards.sentinel._version != forwards.version:
        forwards.version = forwards.sentinel._version
        forwards.updates += 1
    # The first version seen is no update.
    if forwards.updates > _UPDATES or forwards.backwards >= _BACKWARDS:
        tell(
            forwards,
            "unused",
            "the model has shortcut heads, but no loss has used them: they cost time and train "
            "nothing. Take ShortcutLoss(model, criterion) instead of the criterion, or "
            "remove_shortcuts(model).",
        )
