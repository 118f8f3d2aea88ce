"""Colours, dashes and markers that tell lines apart.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), which the colour-blind can tell
apart; lines differ by dashes and markers as well, for print in grey. What is called "vanilla",
"vanilla, ..." or "vanilla (...)" is grey, beside the colours of what is compared with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.lines import Line2D

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "0.45"
DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_VANILLA = re.compile(r"vanilla(,| \(|$)")

__all__ = ["COLOURS", "DASHES", "GREY", "Look", "colours", "in_order", "looks_of"]


@dataclass(frozen=True)
class Look:
    """Colour, dashes and marker of a line."""

    colour: Any
    dashes: str
    marker: str

    def handle(self, label: str, dashes: str | None = None) -> Line2D:
        """What stands for the line in a legend."""
        look = {"color": self.colour, "ls": dashes or self.dashes, "marker": self.marker}
        return Line2D([], [], lw=1.2, ms=3, label=label, **look)


def looks_of(levels: list[Any]) -> list[Look]:
    """The look of each line, given what they are of: runs by name, say, or epochs in order."""
    if in_order(levels):
        return [Look(colour, "-", "o") for colour in colours(len(levels), by_order=True)]
    named = [level for level in levels if _VANILLA.match(str(level))]
    looks, others = [], 0
    for level in levels:
        if named == [level]:
            looks.append(Look(GREY, "-", "s"))
            continue
        i, others = others, others + 1
        colour, dashes = COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)]
        looks.append(Look(colour, dashes, _MARKERS[i % len(_MARKERS)]))
    return looks


def in_order(levels: list[Any]) -> bool:
    """Whether levels are numbers enough for a scale of colours to say more than distinct ones."""
    return len(levels) > 3 and all(
        isinstance(level, int | float) and not isinstance(level, bool) for level in levels
    )


def colours(count: int, by_order: bool) -> list[Any]:
    """Colours to tell apart, or where the order matters, a scale from dark to bright."""
    if not by_order:
        return [COLOURS[i % len(COLOURS)] for i in range(count)]
    return [mpl.colormaps["viridis"](0.92 * i / max(count - 1, 1)) for i in range(count)]
