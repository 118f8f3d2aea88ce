"""Which axis of a tensor is time, batch and channels, and how to put them where heads look."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Layout", "UnclearAxisError", "check_layout", "layout_for", "parse_layout"]

_GRAMMAR = re.compile(
    r"(\((?P<first>T|N|\d+) ?(?P<second>N|T|\d+)\))?(?P<axes>[A-Z]*)(?P<rest>\.\.\.)?"
)
_HELP = (
    "a layout names the axes of a feature in their order, T for time, N for the batch, C for "
    'channels, other letters or a final "..." for positions: "TNC...", "NTC...", "NC...", "TNLC"; '
    '"(TN)C..." where time is folded into the batch, "(4N)C..." where it is 4 steps'
)


class UnclearAxisError(Exception):
    """Which axis of a feature is which does not show."""


@dataclass(frozen=True)
class Layout:
    """The axes of the output of one point.

    Attributes:
        ndim: Number of axes.
        batch: The batch axis; where time is folded into it, the axis that holds both.
        channel: The channel axis.
        time: The time axis; ``None`` where a call has none of its own.
        folded: Time steps folded into the batch axis; 0 where none are.
        time_first: Whether folded time runs slower than the batch: row t * N + n, not n * T + t.
        sure: Whether it was seen or told, rather than taken from what is usual.

    Example:
        >>> import torch
        >>> layout = Layout(ndim=5, batch=0, channel=2, time=1)
        >>> layout.arrange(torch.rand(4, 3, 16, 8, 8)).shape
        torch.Size([3, 4, 16, 8, 8])
    """

    ndim: int
    batch: int
    channel: int
    time: int | None = None
    folded: int = 0
    time_first: bool = True
    sure: bool = True

    @property
    def has_time(self) -> bool:
        """Whether one call gives several time steps."""
        return self.time is not None or self.folded > 0

    @property
    def in_order(self) -> bool:
        """Whether the axes lie as heads want them: ``[T, N, C, ...]`` or ``[N, C, ...]``."""
        first = () if self.time is None else (self.time,)
        return not self.folded and (*first, self.batch, self.channel) == tuple(
            range(len(first) + 2)
        )

    def arrange(self, x: Tensor) -> Tensor:
        """The feature as ``[T, N, C, ...]`` where it has time, else ``[N, C, ...]``.

        Raises:
            ValueError: If folded time steps do not divide the rows.
        """
        if self.in_order:
            return x
        batch, channel, time = self.batch, self.channel, self.time
        if self.folded:
            rows = x.shape[batch]
            if rows % self.folded:
                raise ValueError(f"{rows} rows do not hold {self.folded} time steps each")
            split = (self.folded, -1) if self.time_first else (-1, self.folded)
            x = x.unflatten(batch, split)
            folded, batch = (batch, batch + 1) if self.time_first else (batch + 1, batch)
            channel += channel > self.batch
            if time is None:
                time = folded
            else:  # views or windows of every time step: they count as steps
                time += time > self.batch
                rest = [a for a in range(x.ndim) if a not in (time, folded, batch, channel)]
                return x.permute(time, folded, batch, channel, *rest).flatten(0, 1)
        order = [axis for axis in (time, batch, channel) if axis is not None]
        return x.permute(*order, *(axis for axis in range(x.ndim) if axis not in order))

    def channels(self, shape: tuple[int, ...]) -> int:
        """Channels of a feature of this shape."""
        return shape[self.channel]

    def samples(self, shape: tuple[int, ...]) -> int:
        """Batch size of a feature of this shape."""
        return shape[self.batch] // (self.folded or 1)

    def positions(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Sizes of the axes that are neither time nor batch nor channels."""
        known = (self.batch, self.channel, self.time)
        return tuple(size for axis, size in enumerate(shape) if axis not in known)

    def __str__(self) -> str:
        names = {self.channel: "C", self.batch: "N"}
        if self.time is not None:
            names[self.time] = "T"
        if self.folded:
            names[self.batch] = f"({self.folded}N)" if self.time_first else f"(N{self.folded})"
        left = [axis for axis in range(self.ndim) if axis not in names]
        space = {1: "L", 2: "HW", 3: "DHW"}.get(len(left), "L" * len(left))
        names.update(zip(left, space, strict=True))
        return "".join(names[axis] for axis in range(self.ndim))


def parse_layout(text: str, ndim: int, steps: int | None = None) -> Layout:
    """Read a layout as users write it.

    Args:
        text: Such as ``"NTC..."``.
        ndim: Number of axes of the feature.
        steps: Time steps, for a folded layout that does not say how many.

    Raises:
        ValueError: If the text is no layout, does not fit, or lacks the number of time steps.

    Example:
        >>> parse_layout("NTC...", 5)
        Layout(ndim=5, batch=0, channel=2, time=1, folded=0, time_first=True, sure=True)
    """
    found = _match(text)
    axes, fold = found["axes"], found["first"] is not None
    letters = (["N"] if fold else []) + list(axes)
    if found["rest"]:
        letters += ["."] * (ndim - len(letters))
    if len(letters) != ndim:
        raise ValueError(f'layout="{text}" names {len(letters)} axes, but the feature has {ndim}.')
    folded = 0
    if fold:
        inner = (found["first"], found["second"])
        written = next((int(part) for part in inner if part.isdigit()), steps)
        if written is None:
            raise ValueError(
                f'layout="{text}" does not say how many time steps are folded, and they could not '
                'be seen: write their number for T, as in "(4N)C...".'
            )
        folded = written
    time = letters.index("T") if "T" in letters else None
    return Layout(ndim, letters.index("N"), letters.index("C"), time, folded, found["first"] != "N")


def check_layout(layout: Any) -> None:
    """Refuse what is no layout.

    Args:
        layout: A text, or texts by name or pattern of points.

    Raises:
        TypeError: If it is neither.
        ValueError: If a text is no layout.
    """
    if layout is None:
        return
    texts = layout.values() if isinstance(layout, Mapping) else [layout]
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f'layout must be a string such as "NTC...", got {text!r}: {_HELP}.')
        _match(text)


def layout_for(layout: str | Mapping[str, str] | None, name: str) -> str | None:
    """What the user says of one point; the first name or pattern that fits it."""
    if layout is None or isinstance(layout, str):
        return layout
    for pattern, text in layout.items():
        if name == pattern or re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name):
            return text
    return None


def _match(text: str) -> re.Match[str]:
    found = _GRAMMAR.fullmatch(text)
    letters = "" if found is None else ("TN" if found["first"] else "") + found["axes"]
    folded = [] if found is None else [found["first"], found["second"]]
    sane = (
        found is not None
        and letters.count("N") == 1
        and letters.count("C") == 1
        and letters.count("T") <= 1
        and (folded[0] is None or folded.count("N") == 1)
        and math.prod(int(part) for part in folded if part and part.isdigit()) > 0
    )
    if found is None or not sane:
        raise ValueError(f'layout="{text}" is none: {_HELP}.')
    return found
