"""What the tests of several schedules need."""

import io
import math
from typing import Any

import torch

from sj_shortcut.schedules.base import ShortcutSchedule

NAN, INF = math.nan, math.inf
FINITE = "must be a finite number that fits a float, not"


def through_torch(state: Any) -> Any:
    """A checkpoint, saved and loaded as one of an unknown source."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def told(schedule: ShortcutSchedule, *batches: dict[str, float]) -> Any:
    """The schedule, after it was told of the losses of some batches."""
    for batch in batches:
        schedule.observe({name: torch.tensor(value) for name, value in batch.items()})
    return schedule
