"""Measure the weights of a layer and their gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sj_shortcut.gradients.columns import COLUMNS, Row
from sj_shortcut.gradients.fetcher import Fetcher
from sj_shortcut.torch_model.norms import joint_norm

__all__ = [
    "DERIVED",
    "REDUCTIONS",
    "LayerGradient",
    "WeightLayer",
    "WeightMeasure",
    "derived",
    "measure_weights",
    "reduction",
    "refuse_sharded",
]


@dataclass(frozen=True, eq=False)
class WeightLayer:
    """A layer with weights: its first dotted name, the module and the weights without the bias."""

    name: str
    module: nn.Module

    @property
    def weights(self) -> list[nn.Parameter]:
        """The weight, or where a parametrization computes it, the parameters it comes from."""
        parametrizations = getattr(self.module, "parametrizations", None)
        if parametrizations is not None and "weight" in parametrizations:
            return list(parametrizations["weight"].parameters(recurse=False))
        own = self.module.named_parameters(recurse=False)
        return [parameter for name, parameter in own if name.startswith("weight")]


@dataclass(frozen=True, eq=False)
class LayerGradient:
    """What a layer's columns are computed from.

    Attributes:
        weights: Its weights, without the bias.
        grads: Their gradients, those there are.
        count: Number of single weights.
    """

    weights: list[Tensor]
    grads: list[Tensor]
    count: int


# What is computed of a layer on its device, one small tensor each; ``None`` where it has no value.
REDUCTIONS: dict[str, Callable[[LayerGradient], Tensor | None]] = {}
# What is computed of the numbers of a layer, once they are on the CPU.
DERIVED: dict[str, Callable[[Row], float]] = {}


def reduction(
    function: Callable[[LayerGradient], Tensor | None],
) -> Callable[[LayerGradient], Tensor | None]:
    """Let a function fill the column of its name, or help one that is derived."""
    REDUCTIONS[function.__name__] = function
    return function


def derived(function: Callable[[Row], float]) -> Callable[[Row], float]:
    """Let a function fill the column of its name from other columns and reductions."""
    DERIVED[function.__name__] = function
    return function


@reduction
def weight_grad_norm(layer: LayerGradient) -> Tensor | None:
    """L2 norm of the gradient."""
    return joint_norm(layer.grads) if layer.grads else None


@reduction
def weight_norm(layer: LayerGradient) -> Tensor | None:
    """L2 norm of the weights."""
    return joint_norm(layer.weights)


@reduction
def nonzeros(layer: LayerGradient) -> Tensor | None:
    """Number of gradient entries that are not exactly 0."""
    counts = [torch.count_nonzero(grad) for grad in layer.grads]
    if len(counts) < 2:
        return counts[0] if counts else None
    return torch.stack(counts).sum()


@derived
def weight_grad_rms(row: Row) -> float:
    """Root mean square of the gradient."""
    return _ratio(row["weight_grad_norm"], math.sqrt(row["weights"]))


@derived
def grad_to_weight(row: Row) -> float:
    """Norm of the gradient over that of the weights."""
    return _ratio(row["weight_grad_norm"], row["weight_norm"])


@derived
def zero_fraction(row: Row) -> float:
    """Share of gradient entries that are exactly 0."""
    return 1 - _ratio(row["nonzeros"], row["weights"])


@dataclass(frozen=True, eq=False)
class WeightMeasure:
    """Numbers of one layer, still on its device.

    Attributes:
        layer: The layer.
        count: Number of weights.
        frozen: Whether no weight asks for a gradient.
        has_gradient: Whether a gradient arrived.
        reduced: The reductions by their names.
    """

    layer: WeightLayer
    count: int
    frozen: bool
    has_gradient: bool
    reduced: dict[str, Tensor | None]

    def ask_for(self, fetcher: Fetcher) -> None:
        """Ask for the numbers."""
        for tensor in self.reduced.values():
            fetcher.add(tensor)

    def row(self, fetcher: Fetcher, depth: float, scale: float = 1.0) -> Row:
        """The columns that tell of the weights, with gradients divided by ``scale``."""
        row: Row = {
            "layer": self.layer.name,
            "depth": depth,
            "module": type(self.layer.module).__name__,
            "weights": self.count,
        }
        for name, tensor in self.reduced.items():
            per_loss = name in COLUMNS and COLUMNS[name].per_loss
            row[name] = fetcher.value(tensor) / (scale if per_loss else 1.0)
        for name, function in DERIVED.items():
            row[name] = function(row)
        row["status"] = self._status(row["weight_grad_norm"])
        return row

    def _status(self, norm: float) -> str:
        if not self.has_gradient:
            return "frozen" if self.frozen else "none"
        if not math.isfinite(norm):
            return "nonfinite"
        return "ok" if norm else "zero"


def refuse_sharded(layer: WeightLayer) -> None:
    """Raise if this process holds a part of the weights only.

    Raises:
        TypeError: If a parameter is a shard of one.
    """
    for weight in layer.weights:
        if hasattr(weight, "full_tensor"):
            raise TypeError(
                f"the weight of '{layer.name}' is a {type(weight).__name__}, of which each process "
                "holds a part: gradients of sharded parameters (FSDP, tensor parallelism) cannot "
                "be measured here. Measure before sharding, or under DistributedDataParallel; "
                "ShortcutLogger does without them with layers=False."
            )


def measure_weights(layer: WeightLayer, grads: Sequence[Tensor | None]) -> WeightMeasure:
    """Measure the weights of a layer and their gradients, in the order of ``layer.weights``.

    Raises:
        TypeError: If a parameter is a shard of one.
    """
    refuse_sharded(layer)
    weights = layer.weights
    seen = LayerGradient(
        weights=[weight.detach() for weight in weights],
        grads=[grad.detach() for grad in grads if grad is not None],
        count=sum(weight.numel() for weight in weights),
    )
    return WeightMeasure(
        layer=layer,
        count=seen.count,
        frozen=not any(weight.requires_grad for weight in weights),
        has_gradient=bool(seen.grads),
        reduced={name: function(seen) for name, function in REDUCTIONS.items()},
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
