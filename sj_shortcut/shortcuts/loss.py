"""The training criterion: the task loss of the model's output and of its shortcut heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sj_shortcut.price import SpikePrice
from sj_shortcut.schedules import ConstantSchedule, HandoverSchedule, ShortcutSchedule
from sj_shortcut.shortcuts import arguments
from sj_shortcut.shortcuts.access import find_wrapped, shortcut_branches
from sj_shortcut.shortcuts.activation import activation_behind, is_told
from sj_shortcut.shortcuts.eval_mode import tell_of_eval_mode
from sj_shortcut.shortcuts.hooks import forwards_of, has_shortcuts
from sj_shortcut.shortcuts.oversight import Oversight
from sj_shortcut.shortcuts.pairing import heads_behind
from sj_shortcut.shortcuts.priced import with_price
from sj_shortcut.shortcuts.stacked_loss import stacked_losses
from sj_shortcut.shortcuts.weights import Coefficients, only_weighed, weigh, weights_by_name
from sj_shortcut.torch_model import is_captured

__all__ = ["Criterion", "ShortcutLoss"]

Criterion = Callable[[Tensor, Any], Tensor]


class ShortcutLoss(nn.Module):
    r"""The task loss of a wrapped model, with a direct way to its shallow layers.

    With the model's logits :math:`o_N`, the logits :math:`o_l` of head :math:`l`, the balance
    coefficient :math:`\lambda(e)` at epoch :math:`e` and the task loss :math:`L`,

    .. math::
        \text{combine="loss":}\quad L(o_N, y) + \lambda(e) \sum_l w_l\, L(o_l, y) \\
        \text{combine="logits":}\quad L\big(o_N + \lambda(e) \sum_l w_l\, o_l,\; y\big)

    The sum of logits is that of Guo et al., "Take A Shortcut Back" (NeurIPS 2024):
    :func:`shortcut_backpropagation` makes it with a constant 1, their Eq. 6, and
    :func:`evolutionary_training` with a falling :math:`\lambda`, their Eq. 10. The sum of losses,
    weights and ``per_step`` are ours. With ``combine="logits"``, :math:`\lambda` must come to 0
    before training ends, or removing the heads changes predictions.

    In eval mode, or without gradients, it is the plain criterion, so that one object serves
    training and validation.

    Args:
        model: The wrapped model, bare, compiled, or inside DistributedDataParallel.
        criterion: The task loss, any ``(logits, target) -> Tensor``; ``nn.MSELoss()`` on one-hot
            targets works too.
        schedule: :math:`\lambda` over the epochs; default :class:`HandoverSchedule`, but a constant
            1 with ``combine="logits"``. Advance it with ``loss.schedule.step()`` after each epoch.
        combine: ``"loss"`` or ``"logits"``.
        per_step: Apply the criterion at every time step and average, as in temporal efficient
            training (Deng et al., ICLR 2022); the output must then be ``[T, N, K]``.
        weights: :math:`w_l` of each head, by name or in order of depth; 1 for those not named.
        price: Whether to add a price on spikes, :class:`SpikePrice` as it is by default; or one
            that was made for this model.

    Attributes:
        schedule: The schedule.
        parts: Detached value of each term of the last training loss, which an evaluation leaves:
            ``"total"``, ``"main"`` (the model's output alone), with ``combine="loss"`` each head by
            name, before weighting, and ``"price"`` where there is one. Heads of weight 0 are
            skipped. Empty before the first.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a wrong value, or the model has no shortcuts.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikingjelly.activation_based import layer, neuron
        >>> from sj_shortcut import wrap_with_shortcuts
        >>> model = nn.Sequential(layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 4),
        ...                       neuron.LIFNode(), layer.Linear(4, 2))
        >>> loss = ShortcutLoss(wrap_with_shortcuts(model), nn.CrossEntropyLoss())
        >>> loss(model(torch.rand(3, 8)), torch.tensor([0, 1, 0])).backward()
        >>> list(loss.parts)
        ['total', 'main', '1']
    """

    _schedule: ShortcutSchedule

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion,
        schedule: ShortcutSchedule | None = None,
        *,
        combine: Literal["loss", "logits"] = "loss",
        per_step: bool = False,
        weights: Mapping[str, float] | Sequence[float] | None = None,
        price: bool | SpikePrice = False,
    ) -> None:
        super().__init__()
        self._root = (find_wrapped(model),)  # in a tuple: the loss does not own the model
        arguments.check_options(criterion, schedule, combine, per_step)
        arguments.check_price(price, self._root[0])
        self._forwards = forwards = forwards_of(self._root[0])
        self.weights = weights_by_name(weights, forwards.names)
        # Given in order of depth, they follow the heads if the first batch shows another order.
        self._in_order = None if isinstance(weights, Mapping) else list(self.weights.values())
        self.criterion = criterion
        if schedule is None:
            schedule = HandoverSchedule() if combine == "loss" else ConstantSchedule(1.0)
        self.combine = combine
        self.per_step = per_step
        self.parts: dict[str, Tensor] = {}
        self._oversight = Oversight(forwards)
        self._activation: Callable[[Tensor], Tensor] | None = None
        self._activation_known = False
        self._activation_for = (criterion,)  # in a tuple: another one may be set later
        self._coefficients = Coefficients(self.weights)
        self.schedule = schedule
        self._be_ready(next(self._root[0].parameters(), torch.empty(0)))
        if price is True:  # last, as it puts hooks on, which an error above must not leave behind
            price = SpikePrice(self._root[0], neuron_types=forwards.neuron_types)
        self.price = price or None
        forwards.per_step = per_step

    @property
    def schedule(self) -> ShortcutSchedule:
        """The schedule; another one can be set, also where the step was compiled or captured."""
        return self._schedule

    @schedule.setter
    def schedule(self, schedule: ShortcutSchedule) -> None:
        arguments.check_schedule(schedule, self.combine)
        schedule.add_reader(self._coefficients)
        before = self.__dict__.get("_schedule")
        if before not in (None, schedule):
            before.remove_reader(self._coefficients)
        self._schedule = schedule
        if len(self._coefficients.kept):  # where recorded code reads it already
            self._tell_what_to_expect(self._coefficients.kept)

    def forward(self, output: Tensor, target: Any) -> Tensor:
        """The loss of one batch.

        Args:
            output: The model's logits ``[N, K]``, averaged over time; ``[T, N, K]`` if per step.
                The heads' logits of the forwards that it comes from are found behind it.
            target: What the criterion takes.

        Returns:
            The total, as the criterion reduces it.

        Raises:
            RuntimeError: If no logits of this model's heads are behind the output, with the reason.
            ValueError: If shapes do not fit each other.
        """
        compiling = torch.compiler.is_compiling()
        heads = None
        if self._root[0].training and torch.is_grad_enabled():
            find = self._heads_in_compiled_code if compiling else self._heads
            heads = find(output, target)
        if heads is None:
            return self._plain(output, target)
        used: dict[str, Any]
        if compiling or is_captured(output):
            used = self._recorded_weights(heads, output)
            heads = {name: only_weighed(weight, heads[name]) for name, weight in used.items()}
        else:
            used = self._used_weights(heads)
            heads = {name: heads[name] for name in used}
            self._oversight.first(output, target, self.combine)
        heads = self._like_output(output, heads)
        combined = self._sum_of_losses if self.combine == "loss" else self._loss_of_sum
        total = combined(output, heads, used, target)
        self._schedule.observe(self.parts)
        if self.price is None:
            return total
        total, self.parts = with_price(total, output, self.price, self.criterion, self.parts)
        return total

    def get_extra_state(self) -> dict[str, Any]:
        """The schedule, so that ``state_dict()`` holds all that a training needs to go on."""
        return {"schedule": self.schedule.state_dict()}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take the schedule's state over; ``load_state_dict`` calls this."""
        self.schedule.load_state_dict(state["schedule"])

    def extra_repr(self) -> str:
        """The options, for ``print``."""
        return f"schedule={self.schedule!r}, combine={self.combine!r}, per_step={self.per_step}"

    def _plain(self, output: Tensor, target: Any) -> Tensor:
        """The criterion alone, for validation and for outputs without gradients."""
        arguments.check_shapes(output, target, self.criterion, self.per_step)
        total = self._task_loss(output, target)
        root = self._root[0]
        if not root.training and total.requires_grad and has_shortcuts(root):
            forwards = forwards_of(root)
            total.register_hook(lambda grad: tell_of_eval_mode(root, forwards))
        return total

    def _heads(self, output: Tensor, target: Any) -> dict[str, Tensor] | None:
        """The heads' logits behind an output, seen to and marked as used; ``None`` for none."""
        arguments.check_shapes(output, target, self.criterion, self.per_step)
        root = self._root[0]
        forwards = forwards_of(find_wrapped(root))  # which its heads may have been taken from
        if forwards.last is None or len(forwards.last.logits) < len(forwards.names):
            shortcut_branches(root)  # an error if heads that did not run are gone
        self._check_still_fits(forwards.names, forwards.per_step)
        found = heads_behind(output, root, forwards)
        if found is None:
            return None
        heads, records = found
        forwards.used = True
        for record in records:
            record.used = True
        if not is_captured(output):
            self._follow(output)
            find = partial(shortcut_branches, root)
            used = self._used_weights(heads)
            self._oversight.training(root, find, records, used, self._schedule)
        return heads

    def _heads_in_compiled_code(self, output: Tensor, target: Any) -> dict[str, Tensor] | None:
        """The same where a compiler traces, in one piece if it has traced the model as well."""
        from sj_shortcut.shortcuts import compiled

        here = self._coefficients.kept.device == output.device
        if here and (is_told(self.criterion) or self._activation_known):
            # PyTorch 2.6 cannot read the model's hooks while it traces. Where the model was wrapped
            # anew since, nothing is found in these, and the code is cut in two.
            forwards = self._forwards
            self._check_still_fits(forwards.names, forwards.per_step)
            heads = compiled.heads_of_this_trace(output, forwards)
            if heads is not None:
                arguments.check_shapes(output, target, self.criterion, self.per_step)
                forwards.used = True
                return heads
        found: dict[str, Tensor] | None = compiled.outside_of_the_graph(
            self._heads_and_activation, output, target
        )
        return found

    def _heads_and_activation(self, output: Tensor, target: Any) -> dict[str, Tensor] | None:
        heads = self._heads(output, target)
        if heads is not None:
            self._like_output(output, {})
        return heads

    def _follow(self, output: Tensor) -> None:
        """Take λ over from the schedule, where a tensor keeps it as well."""
        self._coefficients.weights = self.weights
        self._coefficients.follow(self._schedule)
        if self._coefficients.kept.device != output.device:
            self._be_ready(output)

    def _used_weights(self, heads: Mapping[str, Tensor]) -> dict[str, float]:
        """λ w_l by head. One of 0 is left out: 0 times a head's NaN would be NaN."""
        now = self._coefficients.now
        return {name: used for name, used in now.items() if used and name in heads}

    def _recorded_weights(self, heads: Mapping[str, Tensor], output: Tensor) -> dict[str, Any]:
        """λ w_l by head, where they are read anew by every replay; also those that are 0 now."""
        if self._coefficients.kept.device != output.device:
            raise RuntimeError(
                f"λ is not on {output.device} yet, where this loss is to be captured: let the step "
                "run before it is captured, as CUDA graphs need anyway."
            )
        names = [name for name, weight in self.weights.items() if weight and name in heads]
        return self._coefficients.recorded(names)

    def _be_ready(self, like: Tensor) -> None:
        """Have λ, and what the schedule adds up, where recorded code will look for it."""
        self._coefficients.move(like)
        self._tell_what_to_expect(like)

    def _tell_what_to_expect(self, like: Tensor) -> None:
        if self.combine == "loss":
            names = [name for name, weight in self.weights.items() if weight]
            self._schedule.expect(["main", *names], like)

    def _like_output(self, output: Tensor, heads: dict[str, Tensor]) -> dict[str, Tensor]:
        """The heads' logits in the dtype of the output, and as log-probabilities where it is."""
        activation, same = self._activation, self._activation_for[0] is self.criterion
        if not self._activation_known or not (torch.compiler.is_compiling() or same):
            activation = activation_behind(output, self.criterion, self._forwards.ending)
            if not torch.compiler.is_compiling():  # which would compile anew for what is set here
                self._activation, self._activation_known = activation, True
                self._activation_for = (self.criterion,)
        # Under autocast heads are in half precision, and their losses would be as well.
        cast = {name: logits.to(output.dtype) for name, logits in heads.items()}
        if activation is None:
            return cast
        return {name: activation(logits) for name, logits in cast.items()}

    def _sum_of_losses(
        self, output: Tensor, heads: dict[str, Tensor], used: dict[str, Any], target: Any
    ) -> Tensor:
        losses = stacked_losses(self.criterion, [output, *heads.values()], target) if used else None
        if losses is not None:
            total, values = self._coefficients.sum_up(losses, used)
            self.parts = dict(zip(("total", "main", *used), values, strict=True))
            return total
        main = total = self._task_loss(output, target)
        parts = {}
        for name, weight in used.items():
            term = self._task_loss(heads[name], target)
            parts[name] = only_weighed(weight, term.detach())
            total = total + weigh(weight, term)
        self.parts = {"total": total.detach(), "main": main.detach(), **parts}
        return total

    def _loss_of_sum(
        self, output: Tensor, heads: dict[str, Tensor], used: dict[str, Any], target: Any
    ) -> Tensor:
        logits = output
        for name, weight in used.items():
            logits = logits + weigh(weight, heads[name])
        total = self._task_loss(logits, target)
        with torch.no_grad():
            main = self._task_loss(output.detach(), target) if used else total.detach()
        self.parts = {"total": total.detach(), "main": main}
        return total

    def _task_loss(self, logits: Tensor, target: Any) -> Tensor:
        if not self.per_step:
            return _tensor(self.criterion(logits, target))
        steps = [_tensor(self.criterion(step, target)) for step in logits]
        return torch.stack(steps).mean(0)

    def _check_still_fits(self, names: list[str], per_step: bool) -> None:
        """A model may be wrapped anew, or get another loss, after this loss was made."""
        arguments.check_made_for(self.weights, names, self.per_step, per_step)
        if list(self.weights) != names:
            values = self._in_order
            if values is None:
                self.weights = {name: self.weights[name] for name in names}
            else:
                self.weights = dict(zip(names, values, strict=True))
            self._coefficients.weights = self.weights


def _tensor(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor):
        raise TypeError(f"criterion must return the loss as a tensor, got {type(loss).__name__}.")
    return loss
