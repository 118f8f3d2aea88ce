"""Paired measurements: several ways of doing a thing, taken in turn in one process.

The order is drawn anew in each round, and a time is divided by that of the reference in the same
round: what else the machine does meanwhile falls on both alike.
"""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["Median", "device_name", "interleave", "median", "now", "peak_bytes"]

RESAMPLES = 4000
# The profiler would talk into the progress bar.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


class Median(NamedTuple):
    """A median and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def now(device: torch.device) -> float:
    """On the CPU the processor's time in one thread, which other programs disturb less."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def interleave(
    measures: Mapping[str, Callable[[], float]], rounds: int, draw: random.Random
) -> pd.DataFrame:
    """Call every measure once a round; one row a round, one column a measure."""
    rows = []
    with uncollected():
        for _ in range(rounds):
            order = list(measures)
            draw.shuffle(order)
            gc.collect()
            seconds = {name: measures[name]() for name in order}
            rows.append({name: seconds[name] for name in measures})
    return pd.DataFrame(rows)


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection by itself, and a quick one by hand: what is there already stays."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def median(values: pd.Series) -> Median:
    """The median with the interval in which the medians of 95 % of the resamples lie."""
    sample = values.to_numpy()
    draws = np.random.default_rng(0).choice(sample, (RESAMPLES, len(sample)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return Median(float(np.median(sample)), float(low), float(high))


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """The most memory that PyTorch held for tensors at once during ``step``, beyond that before.

    On the CPU it is added up from every single allocation and release that the profiler saw. That
    is exact, and repeatable to the byte, unlike the size of the process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    changes.sort(key=lambda change: change[0])
    return int(max(np.cumsum([size for _, size in changes], dtype=np.int64), default=0))
