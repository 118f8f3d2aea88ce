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
) -> tuple[int | None, list[int]] | None:
    """The axis whose slices come from one channel each of a layer with weights before.

    Args:
        sight: The feature.
        source: The layer.
        left: Axes of the feature that it may be.

    Returns:
        That axis if it is beyond doubt, and the axes that it may be: a slice of any other comes
        from several channels. ``None`` where at most one of the layer's channels arrives.
    """
    if not source.outputs or not sight.outputs or source.shape is None:
        return None
    slices = {axis: _two_slices(sight.outputs[0], axis, source) for axis in left}
    if len(set().union(*(channels for two in slices.values() for channels in two))) < 2:
        return None
    possible = [axis for axis, (one, other) in slices.items() if max(len(one), len(other)) < 2]
    shown = [axis for axis in possible if _are_different(*slices[axis])]
    return (shown[0] if len(shown) == 1 else None), possible


def _are_different(one: set[int], other: set[int]) -> bool:
    return bool(one and other and one != other)


def _two_slices(feature: Tensor, axis: int, source: Sight) -> list[set[int]]:
    """The channels of a layer that the two busiest slices along an axis come from."""
    return [_channels_touched(feature.select(axis, i), source) for i in _busiest(feature, axis)]


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
