"""Which axis of a feature holds its channels, seen by where its slices come from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sj_shortcut.places.example_pass import Sight
from sj_shortcut.places.support import sum_that_stays
from sj_shortcut.places.time_axis import indices

__all__ = ["channel_axis", "channels_by_gradients"]

# With two slices, two positions of a layer that hardly fires can look like two channels.
_MOST_SLICES = 4


def channel_axis(source: Sight) -> int | None:
    """The channel axis of the output of a layer with weights, or of a norm.

    Returns:
        That axis, counted from the end; ``None`` where a norm does not tell, and for other modules.
    """
    module, shape = source.module, source.shape or ()
    if isinstance(module, nn.Linear):
        return -1
    if isinstance(module, nn.modules.conv._ConvNd):
        return -1 - len(module.kernel_size)
    if isinstance(module, nn.LayerNorm):
        return -1 if len(module.normalized_shape) == 1 else None
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
        return -3 if isinstance(module, nn.BatchNorm2d) else -4
    if isinstance(module, nn.GroupNorm | nn.BatchNorm1d):
        width = module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features
        axes = [axis for axis in range(-1, -len(shape), -1) if shape[axis] == width]
        return axes[0] if len(axes) == 1 else None
    return None


def channels_by_gradients(
    sight: Sight, source: Sight, left: Sequence[int]
) -> tuple[int | None, list[int]] | None:
    """The axis whose slices come from one channel each of a layer with weights before.

    Args:
        sight: The feature.
        source: The layer, or a norm.
        left: Axes of the feature that it may be.

    Returns:
        That axis if it is beyond doubt, and the axes that it may be: a slice of any other comes
        from several channels. ``None`` where at most one of the layer's channels arrives.
    """
    if not source.outputs or not sight.outputs or source.shape is None:
        return None
    slices = {axis: _touched_by_slices(sight.outputs[0], axis, source) for axis in left}
    seen = [set().union(*some) for some in slices.values()]
    # Slices along any axis are all of the feature: where one shows nothing, gradients cancelled.
    if len(set().union(*seen)) < 2 or not all(seen):
        return None
    possible = [axis for axis, some in slices.items() if max(map(len, some)) < 2]
    shown = [axis for axis in possible if _are_different(slices[axis])]
    return (shown[0] if len(shown) == 1 else None), possible


def _are_different(touched: list[set[int]]) -> bool:
    """Whether slices come from a channel each, and no two from the same."""
    found = [channel for channels in touched for channel in channels]
    return len(found) > 1 and len(set(found)) == len(found)


def _touched_by_slices(feature: Tensor, axis: int, source: Sight) -> list[set[int]]:
    """The channels of a layer that the busiest slices along an axis come from.

    Where layers hardly fire others tell nothing.
    """
    along = feature.detach().float().abs().movedim(axis, 0).flatten(1).sum(1)
    busiest = along.argsort(descending=True).tolist()[:_MOST_SLICES]
    return [_channels_touched(feature.select(axis, index), source) for index in busiest]


def _channels_touched(part: Tensor, source: Sight) -> set[int]:
    (grad,) = torch.autograd.grad(
        sum_that_stays(part), source.outputs[0], retain_graph=True, allow_unused=True
    )
    axis = channel_axis(source)
    return set() if grad is None or axis is None else indices(grad != 0)[axis]
