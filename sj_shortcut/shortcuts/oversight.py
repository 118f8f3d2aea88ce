"""Notice slips that would make heads useless without any error, and say so once.

Nothing here waits for the device in a training step, but where a slip is likely already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sj_shortcut.schedules import ShortcutSchedule
from sj_shortcut.shortcuts.activation import no_logits
from sj_shortcut.shortcuts.branch import ShortcutBranch
from sj_shortcut.shortcuts.forwards import Forwards, Record
from sj_shortcut.shortcuts.movement import Movement, own_parameters
from sj_shortcut.shortcuts.stepping import Stepping
from sj_shortcut.shortcuts.telling import tell

__all__ = ["Oversight", "own_parameters", "watch_for_unused_heads"]

# Losses of training after which heads that stay where they are are looked at.
_FIRST_LOOK = 4
# Loss of training from which on a new look begins, at powers of two.
_NEXT_LOOK = 16
# Losses of training within which an optimizer that holds the heads should have stepped once.
_RARE_STEPS = 512
_NEVER_RAN = 10
# Updates of the model, or backward passes, after which heads that no loss uses are told of.
_UPDATES, _BACKWARDS = 5, 30


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
        self._stepping = Stepping(forwards)
        self._sentinel: nn.Parameter | None = None
        self._version = -1
        self._movement: Movement | None = None
        self._settled = False
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
            self._frozen(root, branches())
            self._nothing_below(root, records)
        self._resting(records)
        updated = self._updated(root)
        fed = self._forwards.fed
        # Epochs of one batch, as with all data at once; else each batch is a tensor of its own.
        before = None if self._fed is None else self._fed()
        same_batch = before is not None and fed is not None and fed() is before
        self._fed = fed
        self._optimizer(root, branches, used)
        self._stepping.look(root, schedule, updated, same_batch)

    def first(self, output: Tensor, target: Any, combine: str) -> None:
        """Look at what the first training loss is given; values only then, as the first batch is.

        Args:
            output: The model's output.
            target: What the criterion takes.
            combine: How the heads take part.
        """
        if not self._first:
            return
        self._first = False
        self._reconstruction(output, target)
        kind = no_logits(output, self._forwards.ending) if combine == "logits" else ""
        if kind:
            tell(
                self._forwards,
                "sum of no logits",
                f'combine="logits" adds the heads up with an output of {kind}, which is no sum of '
                "logits and weighs them otherwise than the output of logits would. Let the model "
                "give logits, and take a criterion of logits, such as nn.CrossEntropyLoss() or "
                'nn.BCEWithLogitsLoss(); or combine="loss".',
            )

    def _reconstruction(self, output: Tensor, target: Any) -> None:
        """Tell of an output that is as wide as the input and taken for as many classes."""
        forwards = self._forwards
        if forwards.num_classes is None or not isinstance(target, Tensor):
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

    def _frozen(self, root: nn.Module, branches: Mapping[str, ShortcutBranch]) -> None:
        if not any(parameter.requires_grad for parameter in root.parameters()):
            return  # of what comes before the model gradients are asked, as of a generator
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

    def _nothing_below(self, root: nn.Module, records: Sequence[Record]) -> None:
        """Tell of heads behind frozen layers, of a model that learns elsewhere."""
        fixed = set.intersection(*(set(record.fixed) for record in records))
        if fixed and any(parameter.requires_grad for parameter in own_parameters(root)):
            names = ", ".join(repr(name) for name in self._forwards.names if name in fixed)
            tell(
                self._forwards,
                "nothing below",
                f"no layer below the shortcut head at {names} learns, as all are frozen, so its "
                "loss trains the head alone: let layers there train, put heads behind those that "
                "do with at=, or do without heads.",
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

    def _updated(self, root: nn.Module) -> bool:
        """Whether the model was updated, by the version of a parameter, which tells for nothing."""
        if self._calls == 1:
            self._sentinel = next((p for p in own_parameters(root) if p.requires_grad), None)
        if self._sentinel is None or self._sentinel._version == self._version:
            return False
        self._version = self._sentinel._version
        return self._calls > 1

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


def _are_classes(target: Tensor) -> bool:
    """Whether rows of numbers are classes: hot or not, of any two values, or probabilities."""
    with torch.no_grad():
        hot = ((target == target.amin()) | (target == target.amax())).all()
        shares = (target >= 0).all() & ((target.sum(-1) - 1).abs() < 1e-3).all()
        return bool(hot | shares)


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
