"""Which axis of a feature holds its channels, told by the layers and norms before it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import nn

from sj_shortcut.places.channel_axis import channel_axis, channels_by_gradients
from sj_shortcut.places.example_pass import Pass, Sight
from sj_shortcut.places.layout import UnclearAxisError

__all__ = ["ChannelFinder"]

# So many layers with weights before a feature are asked where its channels are.
_MOST_SOURCES = 4


class ChannelFinder:
    """Finds the channels of the features of one pass.

    Args:
        seen: The pass.
    """

    def __init__(self, seen: Pass) -> None:
        self._seen = seen
        self._turns = {name: turn for turn, name in enumerate(seen.sights)}
        self._places = {name: place for place, name in enumerate(seen.weights)}
        self._norms: dict[str, list[Sight]] = {}  # by the layer with weights before them
        for sight in seen.sights.values():
            if sight.name not in self._places and channel_axis(sight) is not None:
                self._norms.setdefault(sight.after[0], []).append(sight)

    def find(self, sight: Sight, left: Sequence[int]) -> tuple[int, bool]:
        """The channel axis of a feature, and whether it is sure.

        Args:
            sight: The feature.
            left: The axes that are neither batch nor time.

        Raises:
            UnclearAxisError: If the layers before it tell different axes, as where positions are
                mixed by weights as well.
        """
        if len(left) == 1:
            return left[0], True
        assert sight.shape is not None
        guess = fallback = nearest = None
        for source, own_axis in self._witnesses(sight):
            assert source.shape is not None
            usual = left[-1] if own_axis == -1 else left[0]
            width = source.shape[own_axis]
            alike = [axis for axis in left if sight.shape[axis] == width]
            # A layer over pooled features, as in attention, has fewer axes and tells less.
            whole = len(source.shape) >= len(sight.shape) - 1 > 1
            nearest = usual if whole and nearest is None else nearest
            # A size alike further away, where channels were elsewhere, is one by chance.
            near = usual == nearest
            if near and whole and alike == [usual] and fallback in (None, (usual, False)):
                if not self._contradicted(sight, own_axis):
                    return usual, True
            if near and whole and fallback is None and usual in alike:
                fallback = usual, False  # where channels were mixed since, nothing else tells
            if whole and width == 1:  # what lies before a single channel went through it
                return guess or (usual, False)
            told = channels_by_gradients(sight, source, left)
            if told is None:
                continue
            seen, possible = told
            if seen is not None:
                self._confirm(sight, left, source, seen)
                return seen, True
            likely = [axis for axis in alike if axis in possible] or possible
            if guess is None and len(likely) == 1:
                guess = likely[0], len(possible) < len(left)
            elif guess is None and likely:
                guess = usual, False
        return guess or fallback or (self._as_taken(sight, left), False)

    def _contradicted(self, sight: Sight, own_axis: int) -> bool:
        """Whether a layer before has its channels on another axis of such a feature."""
        axes = {channel_axis(one) for one in self.sources(sight) if one.shape == sight.shape}
        return not axes <= {own_axis}

    def _confirm(self, sight: Sight, left: Sequence[int], source: Sight, seen: int) -> None:
        """Where a layer before tells another axis, it is to be that of the layer which began."""
        for other, _ in self._witnesses(sight):
            if other is source or len(other.shape or ()) < len(sight.shape or ()) - 1:
                continue
            told = channels_by_gradients(sight, other, left)
            if told is not None and told[0] not in (None, seen):
                if self._as_begun(sight, left) != seen:
                    raise UnclearAxisError
                return

    def _as_begun(self, sight: Sight, left: Sequence[int]) -> int | None:
        """Where the first layer that gave as many numbers has its channels, by their count."""
        assert sight.shape is not None
        for name in self._seen.weights:
            first = self._seen.sights[name]
            own_axis = channel_axis(first)
            if first.shape is None or own_axis is None:
                continue
            if first.shape == sight.shape:
                return len(sight.shape) + own_axis
            alike = [axis for axis in left if sight.shape[axis] == first.shape[own_axis]]
            if math.prod(first.shape) == math.prod(sight.shape) and len(alike) == 1:
                return alike[0]
        return None

    def sources(self, sight: Sight) -> list[Sight]:
        """The layers with weights that ran before a module ended, the last one first."""
        last, weights = sight.after[0], self._seen.weights
        names = reversed(weights[: self._places[last] + 1] if last in self._places else ())
        sights = [self._seen.sights[name] for name in names if name in self._seen.sights]
        return [sight for sight in sights if sight.shape is not None][:_MOST_SOURCES]

    def _witnesses(self, sight: Sight) -> Iterator[tuple[Sight, int]]:
        """Layers with weights and the norms behind them, the last one first, and their channels."""
        for source in self.sources(sight):
            norms = reversed(self._norms.get(source.name, ()))
            earlier = [n for n in norms if self._turns[n.name] < self._turns[sight.name]]
            for one in (*earlier, source):
                axis = channel_axis(one)
                if axis is not None and one.shape is not None:
                    yield one, axis

    def _as_taken(self, sight: Sight, left: Sequence[int]) -> int:
        """Channels with no weights before, as of an embedding: as the next layer takes them."""
        later = self._seen.weight_calls[sight.ended[0] :]
        then = self._seen.sights[later[0]].module if later else None
        shape = sight.shape or ()
        linear = isinstance(then, nn.Linear) and then.in_features == shape[left[-1]]
        return left[-1] if linear else left[0]
