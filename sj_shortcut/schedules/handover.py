"""A balance coefficient that follows the training instead of the calendar."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from sj_shortcut.schedules.base import ShortcutSchedule
from sj_shortcut.schedules.numbers import epoch_number, not_negative_number
from sj_shortcut.torch_model.norms import wide_dtype
from sj_shortcut.torch_model.ranks import gather_objects, rank
from sj_shortcut.torch_model.recorded import is_captured, is_recorded
from sj_shortcut.torch_model.warnings import ShortcutWarning

__all__ = ["HandoverSchedule"]

_Number = TypeVar("_Number", int, float)

# Batches whose losses wait before they are summed on the device.
_MANY = 64


class HandoverSchedule(ShortcutSchedule):
    r"""λ of each head follows its loss: it stays while the head knows more than the output.

    After each epoch, with the mean training loss :math:`\bar L_N` of the model's output and
    :math:`\bar L_l` of head :math:`l` over that epoch, the coefficient of the head becomes

    .. math:: \lambda_l = \text{start} \cdot \min(1,\; \bar L_N / \bar L_l)

    While the main path has not learned, its loss is above those of the heads, and every
    :math:`\lambda_l` is ``start``. As the output overtakes a head, that head lets go. No number of
    epochs is needed, and training may go on as long as it likes. The rule is ours, not the
    paper's; ``analysis/ablation/results`` compares it with others.

    ``step()`` decides at the end of each whole epoch, also if it is called within epochs. In
    between, batches cost a few operations every now and then, on as many numbers as there are
    heads, on the device of the loss, and no waiting for it. A batch with a loss that is not finite
    is left out of all means, and the decision warns of it.

    In distributed training the means are those over all ranks, so all have the same λ: call
    ``step()`` on all of them. Epochs that a checkpoint interrupts go on where they were; on
    several ranks with the means of the one that saved it.

    Args:
        start: λ at first, and at most; 0 or more.
        sync: Whether to average over ranks where ``torch.distributed`` is initialized. Turn it
            off if its processes train models of their own.

    Attributes:
        coefficients: λ of each head by name, as of the last decision; empty before the first.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If ``start`` is negative, infinite or NaN.

    Example:
        >>> import torch
        >>> schedule = HandoverSchedule()
        >>> schedule.observe({"main": torch.tensor(0.5), "layer1": torch.tensor(2.0)})
        >>> schedule.step()
        >>> schedule.coefficient_of("layer1")
        0.25
    """

    needs_losses: ClassVar[bool] = True

    # Not in the state: batches that are not in `sums` yet, by their heads, which may vary from one
    # to the next, as under layer drop. The losses of the last ones are kept as they are, so that a
    # batch costs nothing on the device; of many, sums are taken, still without waiting for it.
    # Behind the sums are the numbers of batches that count and of all. They change in place, as a
    # captured graph goes on adding to the same tensors.
    _unsaved: ClassVar[tuple[str, ...]] = (*ShortcutSchedule._unsaved, "_last", "_waiting")
    _last: dict[tuple[str, ...], tuple[tuple[Tensor, ...], ...]] | None = None
    _waiting: dict[tuple[str, ...], Tensor] | None = None

    def __init__(self, start: float = 1.0, *, sync: bool = True) -> None:
        self.start = start
        self.sync = sync
        self.coefficients: dict[str, float] = {}
        self.past: dict[int, float] = {}
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.batches = 0
        self.left_out = 0
        self._check()

    def __call__(self, epoch: float) -> float:
        """Return λ at an epoch, the mean over heads; of epochs to come, the present one.

        Args:
            epoch: Epochs trained so far, 0 at the start; may be fractional.

        Returns:
            The balance coefficient, between 0 and ``start``.

        Raises:
            TypeError: If ``epoch`` is not a number.
            ValueError: If ``epoch`` is negative, infinite or NaN.
        """
        known = [e for e in self.past if e <= math.floor(epoch_number(epoch))]
        return self.past[max(known)] if known else self.start

    def coefficient_of(self, head: str) -> float:
        """λ of one head, decided after the last whole epoch.

        Args:
            head: Name of the head, as ``shortcut_branches`` gives it.
        """
        return self.coefficients.get(head, self.start)

    def observe(self, losses: Mapping[str, Any]) -> None:
        """Take note of the losses of one batch; :class:`ShortcutLoss` calls this.

        Args:
            losses: Detached losses: ``"main"``, and each head's by name.
        """
        own = {name: loss for name, loss in losses.items() if name != "total"}
        names, row = tuple(own), tuple(loss.detach() for loss in own.values())
        # Recorded code would keep one list of losses for ever, or compile for each longer one.
        if row and is_recorded(row[0]):
            self._sums_of(names, row[0]).add_(_sum_of_finite([row]))
            return
        last = self._last or {}
        rows = (*last.get(names, ()), row)
        self._last = {**last, names: rows}
        if len(rows) >= _MANY:
            self._sum_up()

    def expect(self, names: Sequence[str], like: Tensor) -> None:
        """Have sums ready for these losses; :class:`ShortcutLoss` calls this.

        Args:
            names: ``"main"``, and the heads.
            like: A tensor of the losses' dtype, on their device.
        """
        self._sums_of(tuple(names), like)

    def step(self, epoch: float | None = None) -> None:
        """Move on to the next whole epoch, or to the one given; decide where one is complete.

        Args:
            epoch: Where to go, to follow the training within an epoch.

        Raises:
            TypeError: If ``epoch`` is not a number.
            ValueError: If ``epoch`` is negative, infinite or NaN.
        """
        before = math.floor(self.last_epoch)
        super().step(epoch)
        if math.floor(self.last_epoch) > before:
            self._decide()

    def rule(self, main: float, heads: dict[str, float]) -> dict[str, float]:
        """λ of each head, between 0 and 1, from mean losses; a subclass may have another.

        Args:
            main: Mean loss of the model's output over the epoch.
            heads: Those of the heads by name.
        """
        return {
            name: min(1.0, max(0.0, main) / loss) if loss > 0 else 1.0
            for name, loss in heads.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return settings, decisions and the sums of an unfinished epoch for a checkpoint."""
        self._add_up()
        return super().state_dict()

    def _decide(self) -> None:
        self._add_up()
        sums, counts, batches, left_out = self._over_all_ranks()
        self.sums, self.counts, self.batches, self.left_out = {}, {}, 0, 0
        means = {name: total / counts[name] for name, total in sums.items() if counts[name]}
        main = means.pop("main", math.nan)
        if math.isfinite(main) and means and all(map(math.isfinite, means.values())):
            # A head of λ = 0 has had no part, and what recorded code says of its loss is nothing.
            means = {name: mean for name, mean in means.items() if self.coefficient_of(name)}
            decided = self.rule(main, means)
            self.coefficients.update({name: self.start * x for name, x in decided.items()})
        if self.coefficients:
            mean = sum(self.coefficients.values()) / len(self.coefficients)
            self.past[math.floor(self.last_epoch)] = mean
        # Last, as it may be an error to the user; and once, not by every rank that decides alike.
        if left_out and not (self.sync and rank()):
            self._warn_of_batches_left_out(left_out, batches)

    def _sum_up(self) -> None:
        """Sums of the last batches, on the device."""
        last, self._last = self._last or {}, None
        for names, rows in last.items():
            self._sums_of(names, rows[0][0]).add_(_sum_of_finite(rows))

    def _sums_of(self, names: tuple[str, ...], like: Tensor) -> Tensor:
        """The tensor that the sums of these losses are in, on the device of the loss."""
        waiting = self._waiting or {}
        known = waiting.get(names)
        if known is not None and known.device == like.device:
            return known
        if is_captured(like):
            raise RuntimeError(
                f"{type(self).__name__} has no sums of the losses {', '.join(names)} on "
                f"{like.device} yet, and what a captured graph makes is made anew by every replay: "
                "let the step run once before it is captured."
            )
        if known is not None:  # the model went to another device
            self._take_out(names, known)
        sums = torch.zeros(len(names) + 2, dtype=wide_dtype(like), device=like.device)
        self._waiting = {**(self._waiting or {}), names: sums}
        return sums

    def _add_up(self) -> None:
        self._sum_up()
        for names, sums in (self._waiting or {}).items():
            self._take_out(names, sums)

    def _take_out(self, names: tuple[str, ...], sums: Tensor) -> None:
        """Move sums from the device into the state."""
        *totals, counted, batches = sums.tolist()
        if not batches:
            return
        sums.zero_()
        for name, total in zip(names, totals, strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + total
            self.counts[name] = self.counts.get(name, 0) + int(counted)
        self.batches += int(batches)
        self.left_out += int(batches) - int(counted)

    def _over_all_ranks(self) -> tuple[dict[str, float], dict[str, int], int, int]:
        own = (self.sums, self.counts, self.batches, self.left_out)
        sums, counts, batches, left_out = zip(
            *(gather_objects(own) if self.sync else [own]), strict=True
        )
        return _added(sums), _added(counts), sum(batches), sum(left_out)

    def _warn_of_batches_left_out(self, left_out: int, batches: int) -> None:
        if left_out < batches:
            effect = "were left out of the mean losses that decide λ"
        else:
            effect = "were left out: λ of every head stays as it was"
        warnings.warn(
            f"{left_out} of {batches} batches had a loss that was not finite and {effect}. Where "
            "they become many, training diverges: lower the learning rate, clip gradients, or see "
            "which entry of ShortcutLoss.parts is NaN or infinite.",
            ShortcutWarning,
            stacklevel=5,
        )

    def __repr__(self) -> str:
        return (
            f"HandoverSchedule(start={self.start!r}, last_epoch={self.last_epoch!r}, "
            f"coefficients={self.coefficients!r})"
        )

    def _check(self) -> None:
        self.start = float(not_negative_number("start", self.start))
        if not isinstance(self.sync, bool):
            raise TypeError(f"sync must be True or False, not {self.sync!r}.")


def _sum_of_finite(rows: Iterable[Iterable[Tensor]]) -> Tensor:
    """Sums over batches without a loss that is not finite, their number, and that of all."""
    means = [[loss if loss.ndim == 0 else loss.mean() for loss in row] for row in rows]
    stack = torch.stack([torch.stack(row) for row in means])
    # Double precision adds up single-precision losses without rounding, so that a checkpoint in the
    # middle of an epoch, which splits the sum, changes nothing.
    stack = stack.to(wide_dtype(stack))
    one = torch.ones_like(stack[:, :1])
    # All on the device: asking whether they are finite would wait for the forward pass.
    finite = stack.isfinite().all(1, keepdim=True)
    counted = torch.cat([stack, one], 1).masked_fill(~finite, 0.0)
    return torch.cat([counted, one], 1).sum(0)


def _added(tables: Iterable[dict[str, _Number]]) -> dict[str, _Number]:
    """The sum of each entry over all tables."""
    total: dict[str, _Number] = {}
    for table in tables:
        for name, value in table.items():
            total[name] = total[name] + value if name in total else value
    return total
