"""The rows of a gradient frame: what is measured of one layer's weights and their gradient."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from sj_shortcut.gradients.firing import NAN, Activity, Fetcher
from sj_shortcut.gradients.tracer import QUANTITIES, WeightLayer
from sj_shortcut.shortcuts.wrap import NO_DATA_PARALLEL
from sj_shortcut.torch_model.norms import joint_norm

COLUMNS = (
    "layer",
    "depth",
    "module",
    "weights",
    "status",
    "weight_grad_norm",
    "weight_grad_rms",
    "weight_norm",
    "grad_to_weight",
    "zero_fraction",
    "neuron",
    "output_grad_norm",
    "alive",
    "firing_rate",
)
EXTRA_COLUMNS = (
    "step",
    "rank",
    "t",
    "source",
    "share",
    "batches",
    "coherence",
    "coherence_floor",
    "snr",
)

Row = dict[str, Any]


@dataclass
class WeightMeasure:
    """Numbers of one layer, still on its device.

    Attributes:
        layer: The layer.
        count: Number of weights.
        frozen: Whether no weight asks for a gradient.
        weight_norm: L2 norm of the weights.
        grad_norm: L2 norm of the gradient; ``None`` where there is no gradient.
        nonzeros: Number of gradient entries that are not exactly 0; ``None`` likewise.
    """

    layer: WeightLayer
    count: int
    frozen: bool
    weight_norm: Tensor
    grad_norm: Tensor | None
    nonzeros: Tensor | None

    def ask_for(self, fetcher: Fetcher) -> None:
        """Ask for the numbers."""
        for tensor in (self.weight_norm, self.grad_norm, self.nonzeros):
            fetcher.add(tensor)

    def row(self, fetcher: Fetcher, depth: float, scale: float = 1.0) -> Row:
        """The columns that tell of the weights, with gradients divided by ``scale``."""
        norm = fetcher.value(self.grad_norm) / scale
        weight_norm = fetcher.value(self.weight_norm)
        return {
            "layer": self.layer.name,
            "depth": depth,
            "module": type(self.layer.module).__name__,
            "weights": self.count,
            "status": self._status(norm),
            "weight_grad_norm": norm,
            "weight_grad_rms": norm / math.sqrt(self.count) if self.count else NAN,
            "weight_norm": weight_norm,
            "grad_to_weight": norm / weight_norm if weight_norm else NAN,
            "zero_fraction": 1 - fetcher.value(self.nonzeros) / self.count if self.count else NAN,
        }

    def _status(self, norm: float) -> str:
        if self.grad_norm is None:
            return "frozen" if self.frozen else "none"
        if not math.isfinite(norm):
            return "nonfinite"
        return "ok" if norm else "zero"


def measure_weights(layer: WeightLayer, grads: Sequence[Tensor | None]) -> WeightMeasure:
    """Measure the weights of a layer and their gradients, in the order of ``layer.weights``.

    Raises:
        TypeError: If a parameter is a shard of one.
    """
    weights = layer.weights
    for weight in weights:
        if hasattr(weight, "full_tensor"):
            raise TypeError(
                f"the weight of '{layer.name}' is a {type(weight).__name__}, of which each process "
                "holds a part: gradients of sharded parameters (FSDP, tensor parallelism) cannot "
                "be measured here. Measure before sharding, or under DistributedDataParallel."
            )
    present = [grad for grad in grads if grad is not None]
    return WeightMeasure(
        layer=layer,
        count=sum(weight.numel() for weight in weights),
        frozen=not any(weight.requires_grad for weight in weights),
        weight_norm=joint_norm([weight.detach() for weight in weights]),
        grad_norm=joint_norm(present) if present else None,
        nonzeros=_count_nonzeros(present) if present else None,
    )


def _count_nonzeros(tensors: Sequence[Tensor]) -> Tensor:
    counts = [torch.count_nonzero(tensor.detach()) for tensor in tensors]
    return counts[0] if len(counts) == 1 else torch.stack(counts).sum()


def depth_of(name: str, order: list[str]) -> float:
    """Place of a layer in the order of execution, from 1; NaN if it did not run."""
    return order.index(name) + 1 if name in order else NAN


def by_depth(row: Row) -> float:
    """Sorting key of rows: depth, with layers that did not run last."""
    depth = float(row["depth"])
    return math.inf if math.isnan(depth) else depth


def activity_columns(activity: Activity, scale: float = 1.0, per_step: bool = False) -> Row:
    """The columns that tell of the spiking layer that a layer feeds."""
    columns = dict(vars(activity))
    t = columns.pop("t")
    columns["output_grad_norm"] /= scale
    return {**columns, "t": t} if per_step else columns


def make_frame(rows: Sequence[Row], tags: Sequence[str]) -> pd.DataFrame:
    """A tidy frame: tags first, then ``step`` and the like, then the layer and its numbers."""
    extra = [name for name in EXTRA_COLUMNS if any(name in row for row in rows)]
    leading = [name for name in extra if name in ("step", "rank")]
    return pd.DataFrame(
        list(rows), columns=[*tags, *leading, *COLUMNS, *(n for n in extra if n not in leading)]
    )


def quantities(activity: bool | Collection[str]) -> tuple[str, ...]:
    """What to measure of spiking layers.

    Raises:
        ValueError: If a name is unknown.
    """
    if isinstance(activity, bool):
        return QUANTITIES if activity else ()
    names = (activity,) if isinstance(activity, str) else tuple(activity)
    unknown = [name for name in names if name not in QUANTITIES]
    if unknown:
        raise ValueError(
            f"activity names {unknown[0]!r}, which is none of {', '.join(map(repr, QUANTITIES))}: "
            "name some of these, or say True for all and False for none."
        )
    return names


def check_tags(tags: Mapping[str, Any]) -> None:
    """Refuse tags that would overwrite a column.

    Raises:
        ValueError: If a tag has the name of a column.
    """
    taken = [name for name in tags if name in COLUMNS or name in EXTRA_COLUMNS]
    if taken:
        raise ValueError(
            f"the tag '{taken[0]}' has the name of a column that is measured: call it another name."
        )


def bare_model(model: Any) -> tuple[nn.Module, nn.Module | None]:
    """The model inside DistributedDataParallel and torch.compile, and its compiled wrapper.

    Raises:
        TypeError: If ``model`` is not a module, or is ``nn.DataParallel``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    compiled = None
    while True:
        if isinstance(model, nn.DataParallel):
            raise TypeError(NO_DATA_PARALLEL)
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:
            compiled, model = model, model._modules["_orig_mod"]
            assert isinstance(model, nn.Module)
        else:
            return model, compiled
