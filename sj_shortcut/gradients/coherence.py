"""Whether the gradients of several batches agree, from running sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sj_shortcut.gradients.columns import Row
from sj_shortcut.torch_model.norms import joint_norm

__all__ = ["OVER_BATCHES", "GradientSums", "batch_columns", "over_batches"]

# Of 1000 draws of random directions, one has a mean pairwise cosine above this many of its
# standard deviations.
_QUANTILE = 3.09


@dataclass
class GradientSums:
    """Running sums over batches of one layer's gradient from one source.

    Attributes:
        dimensions: Number of weights of the layer.
        norms: Norm of the gradient of each batch so far.
        directions: Sum of the gradients scaled to length 1.
        total: Sum of the gradients.
    """

    dimensions: int
    norms: list[float] = field(default_factory=list)
    directions: list[Tensor] = field(default_factory=list)
    total: list[Tensor] = field(default_factory=list)

    def add(self, grads: Sequence[Tensor | None], norm: float) -> None:
        """Add the gradient of one batch; none counts as 0."""
        present = [grad for grad in grads if grad is not None]
        self.norms.append(norm if present else 0.0)
        if not (present and norm):
            return
        if not self.total:
            self.total = [_zeros_like(grad) for grad in present]
            self.directions = [_zeros_like(grad) for grad in present]
        for grad, total, direction in zip(present, self.total, self.directions, strict=True):
            total += grad
            direction += grad.to(direction.dtype) / norm

    @property
    def batches(self) -> int:
        """Number of batches so far."""
        return len(self.norms)

    @property
    def directed(self) -> int:
        """Number of batches whose gradient is not 0."""
        return sum(norm != 0 for norm in self.norms)


# What is computed over several batches, by the column that it fills.
OVER_BATCHES: dict[str, Callable[[GradientSums], float]] = {}


def over_batches(function: Callable[[GradientSums], float]) -> Callable[[GradientSums], float]:
    """Let a function fill the column of its name."""
    OVER_BATCHES[function.__name__] = function
    return function


def batch_columns(sums: GradientSums) -> Row:
    """The columns over several batches; none where there is but one."""
    if sums.batches < 2:
        return {}
    return {name: function(sums) for name, function in OVER_BATCHES.items()}


@over_batches
def coherence(sums: GradientSums) -> float:
    """Mean pairwise cosine of the gradients that are not 0."""
    n = sums.directed
    if n < 2:
        return math.nan
    return (float(joint_norm(sums.directions)) ** 2 - n) / (n * (n - 1))


@over_batches
def coherence_floor(sums: GradientSums) -> float:
    """What the coherence of random directions stays below."""
    n = sums.directed
    return _QUANTILE * math.sqrt(2 / (n * (n - 1) * sums.dimensions)) if n > 1 else math.nan


@over_batches
def snr(sums: GradientSums) -> float:
    """Squared length of the mean over the variance."""
    n = sums.batches
    if n < 2 or not sums.total:
        return math.nan
    squares = math.fsum(norm**2 for norm in sums.norms)
    signal = (float(joint_norm(sums.total)) ** 2 - squares) / (n * (n - 1))
    noise = squares / n - signal
    return max(signal, 0.0) / noise if noise > 0 else math.inf


def _zeros_like(grad: Tensor) -> Tensor:
    half = grad.dtype in (torch.float16, torch.bfloat16)
    return torch.zeros_like(grad, dtype=torch.float32 if half else None)
