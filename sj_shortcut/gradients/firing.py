"""Turn what a tracer kept of spiking layers into numbers: in all, or for each time step."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from sj_shortcut.gradients.columns import COLUMNS, Row
from sj_shortcut.gradients.fetcher import Fetcher
from sj_shortcut.gradients.spikes import SPIKE_MEASURES, Call, Noted

__all__ = ["ask_for", "firing_rows"]

# What one call gave for one column in one time step (or in all), and the entries it stands for.
_Part = tuple[float, float]
_Parts = dict[str, _Part]


def ask_for(calls: Iterable[Call], fetcher: Fetcher) -> None:
    """Ask a fetcher for all that :func:`firing_rows` needs."""
    for call in calls:
        for noted in call.noted.values():
            for tensor in noted.tensors:
                fetcher.add(tensor)


def firing_rows(
    calls: Sequence[Call], fetcher: Fetcher, per_step: bool, scale: float = 1.0
) -> list[Row]:
    """Sum the calls of one spiking layer up.

    Calls that no gradient came back to (a validation pass, say) count only where there are no
    others.

    Args:
        calls: The calls.
        fetcher: Has fetched what :func:`ask_for` asked for.
        per_step: One result a time step, in true time order, instead of one in all.
        scale: Factor on the loss: gradients are divided by it.

    Returns:
        The columns that tell of spikes, with ``neuron``, the dotted name, and with ``t`` if per
        step. One row with an empty name and no numbers where there are no calls.
    """
    used = [call for call in calls if call.grads] or list(calls)
    if not used:
        return [_row("", 0 if per_step else None, [], scale)]
    steps: dict[int | None, list[_Parts]] = defaultdict(list)
    starts = _starts(used) if per_step else [0] * len(used)
    for call, start in zip(used, starts, strict=True):
        for offset, parts in enumerate(_parts(call, fetcher, per_step)):
            steps[start + offset if per_step else None].append(parts)
    neuron = used[0].neuron
    return [_row(neuron, t, steps[t], scale) for t in sorted(steps, key=lambda t: t or 0)]


def _row(neuron: str, t: int | None, calls: Sequence[_Parts], scale: float) -> Row:
    row: Row = {"neuron": neuron}
    for name, measure in SPIKE_MEASURES.items():
        values = [parts[name][0] for parts in calls]
        sizes = [parts[name][1] for parts in calls]
        number = measure.join(values, sizes) if calls else math.nan
        row[name] = number / scale if COLUMNS[name].per_loss else number
    return row if t is None else {**row, "t": t}


def _parts(call: Call, fetcher: Fetcher, per_step: bool) -> Iterator[_Parts]:
    """What a call gave, time step by time step if these are to be apart."""
    apart = call.duration if per_step else 1
    values = {name: [math.nan] * apart for name in SPIKE_MEASURES}
    sizes = dict.fromkeys(SPIKE_MEASURES, math.nan)
    for name, noted in call.noted.items():
        # Norms of the gradients of several backward passes do not add up.
        if SPIKE_MEASURES[name].at != "gradient" or call.grads == 1:
            values[name] = _in_steps(_flat(noted, fetcher), apart)
            sizes[name] = noted.size / apart
    for t in range(apart):
        yield {name: (values[name][t], sizes[name]) for name in SPIKE_MEASURES}


def _flat(noted: Noted, fetcher: Fetcher) -> list[float]:
    """The numbers in the order of time: of one tensor all, of several the sum of each."""
    numbers = [fetcher.values(tensor) for tensor in noted.tensors]
    if len(numbers) == 1:  # the neuron handed over all time steps at once
        return numbers[0]
    return [sum(each) for each in numbers]  # one after the other, perhaps in several calls a step


def _in_steps(values: list[float], steps: int) -> list[float]:
    """Sum ``values`` into as many equal runs as there are steps; NaN where they do not divide."""
    each, rest = divmod(len(values), steps)
    if rest or not each:
        return [math.nan] * steps
    return [sum(values[t * each : (t + 1) * each]) for t in range(steps)]


def _starts(calls: Sequence[Call]) -> list[int]:
    """The time step at which each call begins.

    In single-step mode either the model is called once a time step, and its turn tells, or a
    container inside it calls its parts, and their order tells.
    """
    turns: dict[int, set[int]] = defaultdict(set)
    for call in calls:
        turns[call.batch].add(call.turn)
    seen: dict[tuple[int, int], int] = defaultdict(int)
    starts = []
    for call in calls:
        of_batch = turns[call.batch]
        if call.multi_step:
            starts.append(0)
        elif len(of_batch) > 1:
            starts.append(call.turn - min(of_batch))
        else:
            starts.append(seen[call.batch, call.turn])
            seen[call.batch, call.turn] += 1
    return starts
