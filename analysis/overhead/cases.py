"""What the study of costs measures: cases, each with several ways of training and their aims."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch

from analysis.overhead.nets import MODELS, SIZE, Bench
from analysis.overhead.timing import Median, device_name, interleave, median
from analysis.overhead.variants import (
    TimeFirst,
    Variant,
    alone,
    bare,
    compiled,
    evaluated,
    evaluated_again,
    evaluated_wrapped,
    extracted,
    hooked,
    peak_mib,
    removed,
    second_copy,
    seconds,
    wrapped,
    wrapping,
)
from sj_shortcut import ShortcutHead
from sj_shortcut.places.at import At

__all__ = ["BEFORE", "Case", "all_cases", "measure", "quick_cases"]

DEFAULT, EVERYWHERE, AGAIN = "default heads", "a head at every spiking layer", "bare again"
BEFORE = "default heads, as before"
PER_STEP, EXTRACTOR = "heads at every time step", "feature extractor and heads"
CONVOLUTIONAL = "convolutional spiking heads"


@dataclass(frozen=True)
class Way:
    """One way of training in a case.

    Attributes:
        name: What it is called.
        variant: How it is done.
        reference: The way whose time and memory its own are divided by.
        aim: Highest ratio of times that was aimed for.
        memory_aim: The same of memory.
        at: Where heads sit, to measure how long putting them in takes.
    """

    name: str
    variant: Variant
    reference: str = "bare"
    aim: float | None = None
    memory_aim: float | None = None
    at: At | None = None


@dataclass(frozen=True)
class Case:
    """One network with one batch, trained in several ways.

    Attributes:
        group: The question it belongs to.
        net: Name of the network.
        ways: The first is the reference of the others.
        T: Time steps.
        batch: Batch size.
        mode: Step mode.
        size: Height and width of the input.
    """

    group: str
    net: str
    ways: tuple[Way, ...]
    T: int = 4
    batch: int = 32
    mode: str = "m"
    size: int = SIZE

    @property
    def name(self) -> str:
        return f"{self.group}: {self.net}, T={self.T}, N={self.batch}"


BARE = Way("bare", bare)
OURS = Way(DEFAULT, wrapped(), aim=1.02, memory_aim=1.01, at="auto")
ALL = Way(EVERYWHERE, wrapped("all"), aim=1.05, at="all")
COMPARED = replace(OURS, aim=None, memory_aim=None)  # with something else than an aim
MODEL_WAYS = (BARE, OURS, ALL, Way(AGAIN, bare))
BEFORE_WAYS = (
    BARE,
    Way(BEFORE, wrapped(head=TimeFirst)),
    COMPARED,
    replace(COMPARED, reference=BEFORE, at=None),
)
ALONE_WAYS = tuple(
    Way(name, alone(head), reference=BEFORE)
    for name, head in ((BEFORE, TimeFirst), (DEFAULT, ShortcutHead))
)


def all_cases() -> list[Case]:
    """As committed. Batches are of 32 where a step takes no longer than a second or so."""
    resnet = "spiking_resnet18"
    batches = {"spiking_vgg11_bn": 16, "CIFAR10Net": 8, "spikformer": 4}
    return [
        *(Case("models", net, MODEL_WAYS, batch=batches.get(net, 32)) for net in MODELS),
        *(Case("time steps", resnet, (BARE, COMPARED), T, 4) for T in (1, 2, 4, 8, 16, 32)),
        *(_depth(depth, 8, 16) for depth in (6, 12, 24, 48, 96)),
        Case("eval", resnet, _eval_ways()),
        Case("removed", resnet, _removed_ways()),
        Case("single-step", resnet, (BARE, OURS), mode="s"),
        Case("by hand", resnet, _ways_by_hand()),
        Case("by hand", "CIFAR10Net", _ways_by_hand(), batch=2),
        Case("alone", resnet, ALONE_WAYS),
        Case("alone", "CIFAR10Net", ALONE_WAYS, batch=2),
        Case("before", resnet, BEFORE_WAYS),
        Case("before", "CIFAR10Net", BEFORE_WAYS, batch=2),
        Case("compiled", "plain 12x16", _compiled_ways("inductor"), size=16),
    ]


def quick_cases() -> list[Case]:
    """Every question, of networks too small to answer it."""
    net, other = "plain 4x8", "plain 6x8"
    small: dict[str, Any] = {"T": 2, "batch": 2, "size": 8}
    return [
        Case("models", net, MODEL_WAYS, **small),
        *(Case("time steps", net, (BARE, COMPARED), T, 2, size=8) for T in (1, 2)),
        *(_depth(depth, 2, 8) for depth in (3, 6)),
        Case("eval", net, _eval_ways(), **small),
        Case("removed", net, _removed_ways(), **small),
        Case("single-step", net, (BARE, OURS), mode="s", **small),
        Case("by hand", other, _ways_by_hand(), **small),
        Case("alone", net, ALONE_WAYS, **small),
        Case("before", net, BEFORE_WAYS, **small),
        Case("compiled", net, _compiled_ways("eager")[:2], **small),
    ]


def _depth(depth: int, batch: int, size: int) -> Case:
    heads = depth // 3
    ours = Way("depth / 3 heads", wrapped(heads), at=heads)
    return Case("depth", f"plain {depth}x16", (BARE, ours), batch=batch, size=size)


def _eval_ways() -> tuple[Way, ...]:
    return (
        Way("bare", evaluated),
        Way("wrapped, in eval mode", evaluated_wrapped, aim=1.0),
        Way("a second copy", evaluated_again),
    )


def _removed_ways() -> tuple[Way, ...]:
    return (
        BARE,
        Way("after remove_shortcuts", removed, aim=1.0, memory_aim=1.0),
        Way("a second copy", second_copy),
    )


def _ways_by_hand() -> tuple[Way, ...]:
    by_hand = {
        PER_STEP: hooked("linear"),
        EXTRACTOR: extracted,
        CONVOLUTIONAL: hooked("convolutional"),
    }
    return (
        BARE,
        COMPARED,
        *(Way(name, variant) for name, variant in by_hand.items()),
        *(replace(COMPARED, reference=name, aim=1.0, memory_aim=1.0, at=None) for name in by_hand),
    )


def _compiled_ways(backend: str) -> tuple[Way, ...]:
    return (
        Way("bare", compiled(None, backend)),
        Way(DEFAULT, compiled("auto", backend), aim=1.02, memory_aim=1.01, at="auto"),
        Way(EVERYWHERE, compiled("all", backend), aim=1.05, at="all"),
    )


def measure(
    case: Case,
    device: torch.device,
    rounds: int,
    most: int,
    said: Callable[[str], None] = lambda text: None,
) -> pd.DataFrame:
    """Rows of one case, one a way.

    Args:
        case: What to measure.
        device: Where.
        rounds: Of paired measurements, before looking at what they tell.
        most: As many again are added up to this, while an aim lies within an interval.
        said: Is told how far it is.
    """
    said("builds the network")
    bench = Bench(case.net, case.T, case.batch, case.mode, device, case.size)
    ways = {way.name: way.variant for way in case.ways}
    said("warms up")
    for variant in ways.values():
        seconds(bench, variant)
    said("measures memory")
    memory = {name: peak_mib(bench, variant) for name, variant in ways.items()}
    draw = random.Random(0)
    measures = {
        name: lambda variant=variant: seconds(bench, variant) for name, variant in ways.items()
    }
    times = pd.DataFrame()
    while len(times) < rounds or (len(times) < most and not _decided(case.ways, times)):
        said(f"{len(times)} rounds")
        times = pd.concat([times, interleave(measures, min(rounds, most), draw)])
    rows = [_row(way, times, memory, bench) for way in case.ways]
    common = {
        "case": case.name,
        "group": case.group,
        "net": case.net,
        "mode": case.mode,
        "T": case.T,
        "batch": case.batch,
        "size": case.size,
        "device": device_name(device),
        "rounds": len(times),
    }
    return pd.DataFrame([{**common, **row} for row in rows])


def _row(way: Way, times: pd.DataFrame, memory: dict[str, float], bench: Bench) -> dict[str, Any]:
    ratio = _ratio(way, times)
    extra = median(times[way.name] - times[way.reference])
    heads, wrap = wrapping(bench, way.at, 20) if way.at is not None else (None, None)
    return {
        "way": way.name,
        "reference": way.reference,
        "heads": heads,
        "ms": 1000 * times[way.name].median(),
        "ratio": ratio.value,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "aim": way.aim,
        "extra_ms": 1000 * extra.value,
        "extra_low": 1000 * extra.low,
        "extra_high": 1000 * extra.high,
        "MiB": memory[way.name],
        "memory_ratio": memory[way.name] / memory[way.reference],
        "memory_aim": way.memory_aim,
        "wrap_ms": None if wrap is None else 1000 * wrap,
        "graph_breaks": bench.kept.get(f"graph breaks, at={way.at}"),
    }


def _ratio(way: Way, times: pd.DataFrame) -> Median:
    return median(times[way.name] / times[way.reference])


def _decided(ways: Sequence[Way], times: pd.DataFrame) -> bool:
    """Whether the intervals of all ratios lie on one side of their aims."""
    for way in ways:
        if way.aim is not None and way.aim != 1.0:
            ratio = _ratio(way, times)
            if ratio.low <= way.aim < ratio.high:
                return False
    return True
