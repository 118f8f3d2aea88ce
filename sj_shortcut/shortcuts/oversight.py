"""Notice slips that would make heads useless without any error, and say so once.

Nothing here waits for the device in a training step, but where a slip is likely already.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from sj_shortcut.schedules import ShortcutSchedule
from sj_shortcut.shortcuts.branch import ShortcutBranch
from sj_shortcut.shortcuts.forwards import Forwards, Record
from sj_shortcut.torch_model import ShortcutWarning

__all__ = ["Oversight", "tell", "tell_of_eval_mode", "watch_for_unused_heads"]

# Losses of training after which heads that stay where they are are looked at.
_FIRST_LOOK = 4
# Loss of training from which on a new look begins, at powers of two.
_NEXT_LOOK = 16
_NEVER_RAN = 10
_ONE_BATCH_EPOCHS = 5
_EVALUATIONS = 3
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
        self._sentinel: nn.Parameter | None = None
        self._version = -1
        self._movement: _Movement | None = None
        self._settled = False

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
        if self._calls == 1:
            self._frozen(branches())
        self._resting(records)
        self._count_updates(root)
        self._optimizer(root, branches, used)
        self._schedule(schedule)

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
                self._movement = _Movement(root, {name: found[name] for name in used})
            return
        if self._settled:
            if self._calls >= _NEXT_LOOK and not self._calls & (self._calls - 1):
                self._movement, self._settled = None, False  # there may be another optimizer
            return
        calls = self._movement.count(used)
        if calls < _FIRST_LOOK or calls & (calls - 1):  # powers of two, ever more rarely
            return
        behind = self._movement.left_behind()
        self._settled = behind is not None
        if not behind:
            return
        if not self._movement.is_of(branches()):  # heads were replaced meanwhile
            self._movement, self._settled = None, False
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
            short = whole and single and evaluations == 0
            self._short_epochs = self._short_epochs + 1 if short else 0
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
        if (
            evaluations >= _EVALUATIONS
            and schedule.last_epoch == 0
            and schedule.coefficient == self._first_coefficient  # it does not move by itself
            and _hangs_on_epoch(schedule)
        ):
            tell(
                forwards,
                "never stepped",
                f"the model was evaluated {evaluations} times, but the schedule was never stepped, "
                "so λ stays where it began: call criterion.schedule.step() after each epoch. (If "
                "you evaluate several times an epoch, all is well.)",
            )


def _hangs_on_epoch(schedule: ShortcutSchedule) -> bool:
    """Whether a step would ever change λ."""
    if not schedule.needs_steps or schedule.needs_losses:
        return schedule.needs_steps
    now = schedule.coefficient
    return any(schedule(schedule.last_epoch + later) != now for later in (1, 10, 100, 1000))


class _Movement:
    """Whether an optimizer moves the heads, by one small parameter of each and all of the model.

    Versions tell for nothing; only where they suggest a slip are values compared, as there are
    optimizers that write around them.
    """

    def __init__(self, root: nn.Module, branches: Mapping[str, ShortcutBranch]) -> None:
        smallest = {name: _smallest(branch.parameters()) for name, branch in branches.items()}
        self.heads = {name: _Kept(p) for name, p in smallest.items() if p is not None}
        own = own_parameters(root)
        self.body = [(p, p._version) for p in own if p.requires_grad]
        body = _smallest(own)
        self.kept = None if body is None else _Kept(body)
        self.calls = 0
        self.parts = dict.fromkeys(self.heads, 0)

    def count(self, used: Iterable[str]) -> int:
        """Note the heads that a call uses; the number of calls so far."""
        self.calls += 1
        for name in used:
            if name in self.parts:
                self.parts[name] += 1
        return self.calls

    def left_behind(self) -> list[str] | None:
        """Heads that stay where they are while others move; ``None`` if not known yet."""
        if not self.heads or self.kept is None:
            return []
        still = [name for name, head in self.heads.items() if not head.version_moved()]
        if len(still) < len(self.heads) or any(p._version != v for p, v in self.body):
            # A head that had no part has no gradient, which optimizers pass over.
            took_part = [name for name in still if 2 * self.parts[name] > self.calls]
            return took_part or (None if still else [])
        if not self.kept.moved():
            return None
        return [name for name in still if not self.heads[name].moved()]

    def is_of(self, branches: Mapping[str, ShortcutBranch]) -> bool:
        """Whether the heads still have the parameters that are watched."""
        return all(
            any(head.parameter is p for p in branches[name].parameters())
            for name, head in self.heads.items()
            if name in branches
        )


class _Kept:
    """A parameter as it was."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = parameter
        self.version = parameter._version
        self.value = parameter.detach().clone()

    def version_moved(self) -> bool:
        return self.parameter._version != self.version

    def moved(self) -> bool:
        same_place = self.parameter.device == self.value.device
        return not (same_place and torch.equal(self.parameter.detach(), self.value))


def tell_of_eval_mode(root: nn.Module, forwards: Forwards) -> None:
    """In a backward pass of a loss taken in eval mode: tell, unless only the input is asked for."""
    if forwards.attacked or "eval mode" in forwards.said:
        return
    # Not all of them, as SpikingJelly 0.0.0.0.14 has no surrogate gradients in eval mode.
    if not any(_accumulates(p) for p in root.parameters() if p.requires_grad):
        return
    tell(
        forwards,
        "eval mode",
        "a ShortcutLoss taken in eval mode was differentiated: it is the plain criterion there, "
        "and the shortcut heads had no part in it. Call model.train() before the forward; to keep "
        "batch norms or dropout still, put only these in eval mode.",
    )


def _accumulates(leaf: Tensor) -> bool:
    """Whether the backward pass that is running gives a parameter its gradient."""
    node = torch.autograd.graph.get_gradient_edge(leaf).node
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:  # which autograd.grad cannot say of leaves
        return False


def own_parameters(root: nn.Module) -> list[nn.Parameter]:
    """The model's parameters without those of its heads."""
    heads = (m for m in root.modules() if isinstance(m, ShortcutBranch))
    in_heads = {id(p) for head in heads for p in head.parameters()}
    return [p for p in root.parameters() if id(p) not in in_heads]


def _smallest(parameters: Iterable[nn.Parameter]) -> nn.Parameter | None:
    trained = [p for p in parameters if p.requires_grad and not hasattr(p, "full_tensor")]
    return min(trained, key=Tensor.numel, default=None)


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
