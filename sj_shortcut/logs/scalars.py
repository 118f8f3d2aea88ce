"""The numbers that tell how a training with shortcuts goes, by name."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd
from torch import Tensor, nn

from sj_shortcut.shortcuts.access import shortcut_branches
from sj_shortcut.shortcuts.loss import ShortcutLoss

__all__ = ["Scalars", "layer_scalars", "loss_means", "shortcut_scalars"]

Scalars = dict[str, float]


def shortcut_scalars(model: nn.Module, criterion: ShortcutLoss) -> Scalars:
    """What the last call of a loss gave, as flat names and numbers.

    Args:
        model: The wrapped model.
        criterion: Its loss.

    Returns:
        ``"loss/total"``, ``"loss/main"`` and ``"loss/HEAD"`` for each head that had a part in it,
        before weighting (means over samples, where the criterion does not reduce), and
        ``"lambda/HEAD"``, what its schedule and ``weights`` make of it.
        Losses are those of the last training call; none before the first.

    Example:
        >>> import torch
        >>> from spikingjelly.activation_based import layer, neuron
        >>> from sj_shortcut import wrap_with_shortcuts
        >>> model = nn.Sequential(layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 4),
        ...                       neuron.LIFNode(), layer.Linear(4, 2))
        >>> criterion = ShortcutLoss(wrap_with_shortcuts(model), nn.CrossEntropyLoss())
        >>> loss = criterion(model(torch.rand(3, 8)), torch.tensor([0, 1, 0]))
        >>> list(shortcut_scalars(model, criterion))
        ['loss/total', 'loss/main', 'loss/1', 'lambda/1']
    """
    losses = {name: float(value) for name, value in loss_means(criterion).items()}
    weights = {
        f"lambda/{name}": float(criterion.schedule.coefficient_of(name)) * criterion.weights[name]
        for name in shortcut_branches(model)
    }
    return losses | weights


def loss_means(criterion: ShortcutLoss) -> dict[str, Tensor]:
    """The parts of the last loss as ``"loss/NAME"``, their means where it does not reduce."""
    parts = criterion.parts.items()
    return {f"loss/{name}": part.mean() if part.ndim else part for name, part in parts}


def layer_scalars(rows: pd.DataFrame, columns: Iterable[str]) -> Scalars:
    """Numbers of layers as flat names, ``"firing_rate/layer1.0"``; those that are NaN left out."""
    found: Scalars = {}
    for column in columns:
        for layer, value in zip(rows["layer"], rows[column], strict=True):
            if not math.isnan(value):
                found[f"{column}/{layer}"] = float(value)
    return found
