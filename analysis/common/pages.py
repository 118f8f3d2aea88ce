"""What the pages of the studies have in common."""

from __future__ import annotations

import pandas as pd

__all__ = ["markdown"]


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown, without a dependency for it."""
    head = [str(column) for column in frame.columns]
    rows = [[str(value) for value in row] for row in frame.itertuples(index=False)]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
