"""Names along an axis, as many as there is room for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import Locator, MaxNLocator, NullLocator

from sj_shortcut.plots.axes import TINY, points

# A longer name keeps this many characters, the last ones.
_LONGEST_NAME = 22

__all__ = ["name_ticks", "short"]


def short(name: object) -> str:
    """Layer names are told apart by their ends."""
    text = str(name)
    return text if len(text) <= _LONGEST_NAME else "…" + text[1 - _LONGEST_NAME :]


class _SparseTicks(Locator):
    """Ticks at given places, of which it leaves out as many as the labels need.

    It looks at the axis at every drawing, so that it follows the figure's size.
    """

    def __init__(self, places: Sequence[float], room: float) -> None:
        self.places = np.asarray(sorted(places))
        self.room = room  # of one label, in points

    def __call__(self) -> Any:
        assert self.axis is not None
        direction = self.axis.axis_name  # type: ignore[union-attr]
        length = points(self.axis.axes, direction)  # type: ignore[union-attr]
        low, high = sorted(self.axis.get_view_interval())
        places = self.places
        if len(places) < 2 or high <= low:
            return places
        # Steps are counted in places, which are about evenly apart.
        apart = length * (places[-1] - places[0]) / (high - low) / (len(places) - 1)
        step = max(1, math.ceil(self.room / max(apart, 1e-9)))
        chosen = list(range(0, len(places), step))
        last = len(places) - 1
        if chosen[-1] != last:  # the last layer is always named
            chosen = [i for i in chosen if i == 0 or last - i >= step] + [last]
        return places[chosen]

    def tick_values(self, vmin: float, vmax: float) -> Any:
        return self.places


def name_ticks(
    axis: Any, names: Mapping[float, str], size: str = TINY, upright: bool = False
) -> None:
    """Write names along an axis, as many as fit, sideways on the x axis unless they are short."""
    if not names:
        axis.set_major_locator(MaxNLocator("auto", integer=True))
        return
    size_in_points = FontProperties(size=size).get_size_in_points()
    longest = max(map(len, names.values()))
    across = axis.axis_name == "x"
    sideways = across and not upright and longest > 2
    height, width = 1.25 * size_in_points, (0.7 * longest + 0.6) * size_in_points
    room = height if sideways or not across else width
    axis.set_major_locator(_SparseTicks(list(names), room))
    axis.set_major_formatter(lambda place, _: names.get(float(place), ""))
    axis.set_minor_locator(NullLocator())
    axis.set_tick_params(labelsize=size, rotation=90 if sideways else 0)
