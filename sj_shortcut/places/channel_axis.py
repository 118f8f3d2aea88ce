"""Which axis of a feature holds its channels, seen by where its slices come from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sj_shortcut.places.example_pass import Sight
from sj_shortcut.places.time_axis import indices

__all__ = ["channel_axis", "channels_by_gradients"]


def channel_axis(source: Sight) -> int:
    """The channel axis of the output of a layer with weights."""
    if isinstance(source.module, nn.Linear):
        return -1
    assert isinstance(source.module, nn.modules.conv._ConvNd)
    return -1 - len(source.module.kernel_size)


def channels_by_gradients(
    sight: Sight, source: Sight, left: Sequence[int]
) -> tuple[int | None, list[int]]:
    """The axis whose slices come from one channel each of a layer with weights before.

    Args:
        sight: The feature.
        source: The layer.
        left: Axes of the feature that it may be.

    Returns:
        That axis if it is beyond doubt, and the axes that it may be: a slice of any other comes
        from several channels.
    """
    if not source.outputs or not sight.outputs or source.shape is None:
        return None, list(left)
    if source.shape[channel_axis(source)] < 2:
        return None, list(left)
    shown, possible = [], []
    for axis in left:
        one, other = (
            _channels_touched(sight.outputs[0].select(axis, index), source)
            for index in _busiest(sight.outputs[0], axis)
        )
        if max(len(one), len(other)) < 2:
            possible.append(axis)
            if one and other and one != other:
                shown.append(axis)
    return (shown[0] if len(shown) == 1 else None), possible


def _busiest(feature: Tensor, axis: int) -> tuple[int, int]:
    """The two slices along an axis that hold most: where layers hardly fire others tell nothing."""
    along = feature.detach().float().abs().movedim(axis, 0).flatten(1).sum(1)
    order = along.argsort(descending=True).tolist()
    return order[0], order[min(1, len(order) - 1)]


def _channels_touched(part: Tensor, source: Sight) -> set[int]:
    (grad,) = torch.autograd.grad(
        part.sum(), source.outputs[0], retain_graph=True, allow_unused=True
    )
    return set() if grad is None else indices(grad != 0)[channel_axis(source)]
