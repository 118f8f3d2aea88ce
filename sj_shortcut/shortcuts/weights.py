"""What the losses of the heads are weighed with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from sj_shortcut.torch_model import did_you_mean

__all__ = ["Factors", "finite_coefficient", "weights_by_name"]


class Factors:
    """Numbers as a tensor on the device, sent there anew only where they change."""

    def __init__(self) -> None:
        self._values: list[float] = []
        self._sent = torch.empty(0)

    def like(self, losses: Tensor, values: list[float]) -> Tensor:
        """The values as a tensor of the dtype and on the device of the losses."""
        kept = self._sent
        if values == self._values and (kept.dtype, kept.device) == (losses.dtype, losses.device):
            return kept
        # From pinned memory, so as not to wait for the device.
        sent = torch.tensor(values, dtype=losses.dtype, pin_memory=losses.is_cuda)
        self._values, self._sent = values, sent.to(losses.device, non_blocking=True)
        return self._sent


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
