"""What the losses of the heads are weighed with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from sj_shortcut.schedules import ShortcutSchedule
from sj_shortcut.torch_model import did_you_mean, is_captured, wide_dtype

__all__ = ["Coefficients", "finite_coefficient", "only_weighed", "weigh", "weights_by_name"]


class Coefficients:
    """λ w_l of the heads: numbers for code that Python runs, a tensor for code that is recorded.

    The tensor stays where it is and is written to in place, as compiled code and captured graphs go
    on reading it there.

    Args:
        weights: w_l of each head, by name.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = weights
        self.now: dict[str, float] = {}
        self.kept = torch.empty(0)
        self._names = list(weights)
        self._factors: list[float] = []
        self._sent = torch.empty(0)

    def follow(self, schedule: ShortcutSchedule) -> None:
        """Take over where a schedule stands, on the device too.

        Raises:
            TypeError: If λ of a head is no number.
            ValueError: If it is negative, infinite or NaN.
        """
        now = {
            name: weight * finite_coefficient(schedule.coefficient_of(name))
            for name, weight in self.weights.items()
        }
        if now != self.now:
            self.now = now
            self._write()

    def move(self, like: Tensor) -> None:
        """Keep the tensor on the device of another one."""
        with torch.inference_mode(False):
            self.kept = torch.zeros(len(self._names), dtype=wide_dtype(like), device=like.device)
        self._write()

    def recorded(self, names: Iterable[str]) -> dict[str, Tensor]:
        """For recorded code: λ w_l of each of these heads as a tensor, whatever it is now."""
        # A copy, since λ may move on before the backward pass.
        values = self.kept.clone().unbind()
        return {name: values[self._names.index(name)] for name in names}

    def sum_up(
        self, losses: Tensor, used: Mapping[str, float | Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """The total of a row of losses, that of the output first; and total and each, to look at.

        Args:
            losses: ``[1 + heads]``.
            used: λ w_l of each of these heads: numbers, or in recorded code tensors.
        """
        each = losses.detach()
        tensors = [weight for weight in used.values() if isinstance(weight, Tensor)]
        if tensors:
            weights = torch.stack(tensors)
            total = losses[0] + weigh(weights, losses[1:]).sum()
            return total, [total.detach(), each[0], *only_weighed(weights, each[1:]).unbind()]
        total = torch.dot(losses, self.factors(losses, used))  # type: ignore[arg-type]
        return total, [total.detach(), *each.unbind()]

    def factors(self, losses: Tensor, used: Mapping[str, float]) -> Tensor:
        """What a row of losses is weighed with, that of the output by 1; sent only if changed."""
        values, sent = [1.0, *used.values()], self._sent
        if values == self._factors and (sent.dtype, sent.device) == (losses.dtype, losses.device):
            return sent
        self._factors, self._sent = values, _sent(values, losses.dtype, losses.device)
        return self._sent

    def _write(self) -> None:
        kept = self.kept
        if len(kept) and self.now:
            if is_captured(kept):
                raise RuntimeError(
                    "λ moved inside a step that is being captured, and every replay would set it "
                    "to this value again: call schedule.step() outside of what is captured."
                )
            with torch.inference_mode(False), torch.no_grad():
                values = [self.now[name] for name in self._names]
                kept.copy_(_sent(values, kept.dtype, kept.device))


def weigh(weight: float | Tensor, value: Tensor) -> Tensor:
    """A value times a weight; in recorded code 0, whatever the value, where the weight is 0."""
    if not isinstance(weight, Tensor):
        return weight * value
    wide = torch.float32 if value.dtype.itemsize < 4 else value.dtype
    return torch.where(weight != 0, weight.to(wide) * value, 0.0).to(value.dtype)


def only_weighed(weight: float | Tensor, value: Tensor) -> Tensor:
    """A value, in recorded code 0 where its weight is 0; so is the gradient, whatever comes."""
    if not isinstance(weight, Tensor):
        return value
    return torch.where(weight != 0, value, 0.0)


def _sent(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    # From pinned memory, so as not to wait for the device; on the CPU whatever the default is.
    numbers = torch.tensor(values, dtype=dtype, device="cpu", pin_memory=device.type == "cuda")
    return numbers.to(device, non_blocking=True)


def finite_coefficient(coefficient: Any) -> float:
    """What a schedule gave, if it can weigh a loss.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is negative, infinite or NaN.
    """
    if not isinstance(coefficient, Real):
        raise TypeError(
            f"the schedule gave the coefficient {coefficient!r}; it must be a number, such as a "
            "float."
        )
    value = float(coefficient)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(
            f"the schedule gave the coefficient {value}; it must be finite and at least 0."
        )
    return value


def weights_by_name(
    weights: Mapping[str, float] | Sequence[float] | None, names: list[str]
) -> dict[str, float]:
    """The weight of each head; 1 where none is given.

    Args:
        weights: By name, or in the order of the names.
        names: The heads, in order of execution.

    Raises:
        TypeError: If they are no numbers.
        ValueError: If there are too many or too few, if a name is unknown, or a weight negative,
            infinite or NaN.
    """
    if weights is None:
        return dict.fromkeys(names, 1.0)
    if isinstance(weights, str) or not isinstance(weights, Iterable):
        raise TypeError(
            "weights must be numbers, by the name of a head or in order of depth, such as "
            f"{{'{names[0]}': 0.5}}; got {weights!r}."
        )
    if not isinstance(weights, Mapping):
        values = list(weights)
        if len(values) != len(names):
            raise ValueError(
                f"weights has {len(values)} entries for {len(names)} heads: {', '.join(names)}."
            )
        weights = dict(zip(names, values, strict=True))
    for name, weight in weights.items():
        if name not in names:
            hint = did_you_mean(name, names)
            raise ValueError(f"weights names no head '{name}'.{hint} Heads: {', '.join(names)}.")
        if isinstance(weight, bool) or not isinstance(weight, Real):
            raise TypeError(f"the weight of '{name}' must be a number, got {weight!r}.")
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"the weight of '{name}' must be finite and at least 0, got {weight}.")
    return {name: float(weights.get(name, 1.0)) for name in names}
