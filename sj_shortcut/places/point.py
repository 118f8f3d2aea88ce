"""The places of a model where a head can sit, as a table for people and a list for code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from sj_shortcut.places.layout import Layout

__all__ = [
    "CLASSIFIER_FEATURE",
    "NO_ONE_DEPTH",
    "OTHER_LOGITS",
    "ShortcutPoint",
    "ShortcutPoints",
]

CLASSIFIER_FEATURE = "the classifier's own feature: left out unless named"
OTHER_LOGITS = "on the way to other logits than the main ones: left out unless named"
NO_ONE_DEPTH = "a module shared between depths has no one depth"


@dataclass(frozen=True)
class ShortcutPoint:
    """One place of a model where a shortcut head can, or cannot, sit.

    Attributes:
        name: Dotted path of the module, as ``model.get_submodule`` takes it.
        module: The module's class name.
        channels: Channels of its output; ``None`` where that is not known.
        stage: Number of the stage of width or resolution it belongs to, from 1.
        usable: Whether a head can sit here.
        on_path: Whether ``at="auto"``, ``"stages"``, ``"all"`` and a number choose from it: the
            outermost spiking layers and blocks on the way to the output but the last, not the
            parts of a block.
        auto: Whether ``at="auto"`` puts a head here.
        reason: Why no head can sit here, or why the automatic choices leave it out.
        shape: Shape of its output as it was seen in a forward pass.
        layout: Axes of its output as they were seen; ``None`` where they were not.
        spatial: Whether its output has positions besides the channels.
    """

    name: str
    module: str
    channels: int | None
    stage: int
    usable: bool
    on_path: bool
    auto: bool = False
    reason: str = ""
    shape: tuple[int, ...] | None = None
    layout: Layout | None = None
    spatial: bool = True


class ShortcutPoints(list[ShortcutPoint]):
    """A list of :class:`ShortcutPoint` that prints as a table, blocks alike folded into a row.

    Attributes:
        num_classes: Class count as far as it was read or seen.
        refusal: Why no head can be right for this model's output; empty if one can.
        mixed: Why samples depend on each other, where a spiking layer makes them.
        looked: Whether the model was seen running.
        full: Whether to print every row.
        of_example: Whether shapes are those of an example, which then are printed, rather than of a
            made-up batch, of which the axes are printed alone.
    """

    num_classes: int | None = None
    refusal: str = ""
    mixed: str = ""
    looked: bool = False
    full: bool = False
    of_example: bool = False

    def to_frame(self, full: bool = True) -> pd.DataFrame:
        """The table as a frame.

        Args:
            full: Whether blocks that are alike but for their number have a row each.
        """
        groups = [[point] for point in self] if full else _fold(self)
        return pd.DataFrame([_row(group, self.of_example) for group in groups]).astype(object)

    def __repr__(self) -> str:
        if not self:
            return "ShortcutPoints: none (no spiking neuron found)"
        frame = self.to_frame(self.full)
        rows = [
            list(frame.columns),
            *(list(map(str, row)) for row in frame.itertuples(index=False)),
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        if len(frame) < len(self):
            lines.append(f"({len(self)} points, those alike in one row; full=True shows each)")
        return "\n".join(lines)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return str(self.to_frame(self.full).to_html(index=False))


def _row(group: list[ShortcutPoint], of_example: bool) -> dict[str, object]:
    first = group[0]
    row: dict[str, object] = {
        "name": _common_name([point.name for point in group]),
        "module": first.module,
        "channels": first.channels or "?",
        "stage": first.stage,
        "usable": "yes" if first.usable else "-",
        "on_path": "yes" if first.on_path else "-",
        "auto": _heads(group),
    }
    if of_example:
        row["shape"] = "-" if first.shape is None else "x".join(map(str, first.shape))
    else:
        row["axes"] = "?" if first.layout is None else str(first.layout)
    return {**row, "reason": first.reason}


def _heads(group: list[ShortcutPoint]) -> str:
    heads = [point for point in group if point.auto]
    if not heads or len(group) == 1:
        return "head" if heads else "-"
    return "heads" if len(heads) == len(group) else f"{len(heads)} of {len(group)}"


def _fold(points: Iterable[ShortcutPoint]) -> list[list[ShortcutPoint]]:
    """Points that are alike but for the numbers in their names, in order of the first of each."""
    groups: dict[tuple[object, ...], list[ShortcutPoint]] = {}
    for point in points:
        pattern = re.sub(r"\d+", "#", point.name) if "." in point.name else point.name
        alike = (point.module, point.channels, point.stage, point.usable, point.on_path)
        key = (pattern, *alike, point.reason if not point.on_path else "", point.shape)
        groups.setdefault(key, []).append(point)
    return list(groups.values())


def _common_name(names: list[str]) -> str:
    """One name for several that differ in numbers, as in ``layer1.{0-2}.sn1``."""
    if len(names) == 1:
        return names[0]
    split = [re.split(r"(\d+)", name) for name in names]
    parts = []
    for pieces in zip(*split, strict=True):
        if len(set(pieces)) == 1:
            parts.append(pieces[0])
            continue
        numbers = sorted(set(map(int, pieces)))
        run = numbers[-1] - numbers[0] == len(numbers) - 1
        text = f"{numbers[0]}-{numbers[-1]}" if run else ",".join(map(str, numbers))
        parts.append(f"{{{text}}}")
    return "".join(parts)
