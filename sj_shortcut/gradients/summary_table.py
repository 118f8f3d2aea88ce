"""The table that a summary is, shown with its words whole."""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd

__all__ = ["SummaryTable"]


class SummaryTable(pd.DataFrame):
    """A DataFrame whose words are shown whole, below its numbers, in lines of the usual width.

    Words are the columns ``verdict``, ``dead_layers`` and ``incoherent_layers``. To code it is the
    DataFrame that it is. The options ``display.width``, ``display.max_rows`` and
    ``display.min_rows`` of pandas hold.

    Example:
        >>> SummaryTable({"run": ["a"], "dead": [1], "dead_layers": ["conv1"],
        ...               "verdict": ["dead: 1 of 3 layers get no gradient, 'conv1' among them"]})
          run  dead
        0   a     1
        <BLANKLINE>
        0  dead: 1 of 3 layers get no gradient, 'conv1' among them
           dead layers: conv1
    """

    @property
    def _constructor(self) -> type[SummaryTable]:
        return SummaryTable

    def __repr__(self) -> str:
        if "verdict" not in self.columns or self.empty:
            return pd.DataFrame(self).__repr__()
        width = pd.get_option("display.width") or 80
        most, least = pd.get_option("display.max_rows"), pd.get_option("display.min_rows")
        words = [name for name in ("verdict", *_LISTS) if name in self.columns]
        numbers = pd.DataFrame(self.drop(columns=words)).to_string(
            line_width=width, max_rows=most, min_rows=least
        )
        lines = [numbers, ""]
        shown = list(range(len(self)))
        if most and len(shown) > most:
            half = max((least or most) // 2, 1)
            shown = [*shown[:half], -1, *shown[-half:]]
        labels = [str(label) for label in self.index]
        room = max(len(labels[row]) for row in shown if row >= 0) + 2
        for row in shown:
            if row < 0:
                lines.append("..")
                continue
            lines += _wrapped(labels[row].ljust(room), self.iloc[row], width)
        if len(shown) < len(self):
            lines += ["", f"[{len(self)} rows]"]
        return "\n".join(lines)

    def _repr_html_(self) -> str | None:
        with pd.option_context("display.max_colwidth", None, "display.max_columns", None):
            html: str | None = pd.DataFrame(self)._repr_html_()  # type: ignore[operator]
        return html


_LISTS = {"dead_layers": "dead layers", "incoherent_layers": "incoherent layers"}


def _wrapped(label: str, row: pd.Series[Any], width: int) -> list[str]:
    """The words of one row, behind its label."""
    said = [str(row["verdict"])]
    for name, words in _LISTS.items():
        if row.get(name):
            said.append(f"{words}: {row[name]}")
    lines: list[str] = []
    for text in said:
        lines += textwrap.wrap(
            text,
            width,
            initial_indent=" " * len(label) if lines else label,
            subsequent_indent=" " * len(label),
            break_on_hyphens=False,
        )
    return lines
