"""Spikes of a run, counted on a few of its test samples, the same in every epoch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch

from sj_shortcut import ShortcutWarning, spike_report

if TYPE_CHECKING:
    from .building import Run

__all__ = ["count_spikes", "first_and_last", "sums"]

SAMPLES = 32


def count_spikes(run: Run) -> pd.DataFrame:
    """A row a layer, of the epoch that was just trained."""
    test = run.data.test
    apart = max(1, len(test) // SAMPLES)  # they are often in the order of classes
    samples = [test[i] for i in range(0, len(test), apart)][:SAMPLES]
    x = torch.stack([x for x, _ in samples])
    y = torch.tensor([label for _, label in samples])
    with warnings.catch_warnings():
        # Which would be told in every epoch; a silent layer is seen in the table.
        warnings.simplefilter("ignore", ShortcutWarning)
        return spike_report(
            run.model,
            (x, y),
            forward=lambda model, x: run.over_time(x),
            epoch=run.position.epoch + 1,
        )


def sums(frame: pd.DataFrame) -> dict[str, float]:
    """What metrics.csv has of it: spikes and synaptic operations of a sample."""
    return {name: float(frame[name].sum()) for name in ("spikes", "synops")}


def first_and_last(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The rows of the first epoch, if there are any yet, and those of this one."""
    if not path.exists():
        return frame
    known = pd.read_csv(path)
    first, now = known["epoch"].min(), frame["epoch"].iloc[0]
    return pd.concat([known[known["epoch"] == first], frame]) if first < now else frame
