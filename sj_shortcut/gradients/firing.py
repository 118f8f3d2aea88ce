"""Turn what a tracer noted of spiking layers into numbers, with one transfer from the device."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sj_shortcut.gradients.tracer import Call

NAN = math.nan


class Fetcher:
    """Collects small tensors and brings them to the CPU together, one transfer a device."""

    def __init__(self) -> None:
        self._tensors: dict[int, Tensor] = {}
        self._values: dict[int, list[float]] = {}

    def add(self, tensor: Tensor | None) -> None:
        """Ask for a tensor."""
        if tensor is not None:
            self._tensors[id(tensor)] = tensor

    def fetch(self) -> None:
        """Bring what was asked for."""
        kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
        for tensor in self._tensors.values():
            kinds[tensor.device, tensor.dtype].append(tensor)
        for tensors in kinds.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).tolist()
            for tensor in tensors:
                self._values[id(tensor)] = flat[: tensor.numel()]
                del flat[: tensor.numel()]

    def values(self, tensor: Tensor | None) -> list[float]:
        """All values of a tensor that was fetched; empty for ``None``."""
        return [] if tensor is None else self._values[id(tensor)]

    def value(self, tensor: Tensor | None) -> float:
        """The value of a scalar that was fetched; NaN for ``None``."""
        return NAN if tensor is None else self._values[id(tensor)][0]


@dataclass
class Activity:
    """What a spiking layer did, in all, or in one time step.

    Attributes:
        neuron: Dotted name of the spiking layer; empty where a layer feeds none.
        t: The time step, ``None`` for all together.
        output_grad_norm: L2 norm of the gradient at its output; NaN where none arrived.
        alive: Share of its membrane potentials where the surrogate's derivative is high enough.
        firing_rate: Share of its outputs that are not 0.
    """

    neuron: str = ""
    t: int | None = None
    output_grad_norm: float = NAN
    alive: float = NAN
    firing_rate: float = NAN


@dataclass
class _Piece:
    """What one call did in one time step, or in all of them."""

    fired: float
    outputs: float
    alive: float
    potentials: float
    grad_norm: float


def ask_for(calls: Iterable[Call], fetcher: Fetcher) -> None:
    """Ask a fetcher for all that :func:`activities` needs."""
    for call in calls:
        for tensor in (call.fired, call.grad_norm, *call.alive):
            fetcher.add(tensor)


def activities(calls: Sequence[Call], fetcher: Fetcher, per_step: bool) -> list[Activity]:
    """Sum the calls of one spiking layer up.

    Calls that no gradient came back to (a validation pass, say) count only where there are no
    others.

    Args:
        calls: The calls.
        fetcher: Has fetched what :func:`ask_for` asked for.
        per_step: One result a time step, in true time order, instead of one in all.

    Returns:
        The results; one without numbers where there are no calls.
    """
    used = [call for call in calls if call.grads] or list(calls)
    if not used:
        return [Activity(t=0 if per_step else None)]
    groups: dict[int | None, list[_Piece]] = defaultdict(list)
    starts = _starts(used) if per_step else [0] * len(used)
    for call, start in zip(used, starts, strict=True):
        for offset, piece in enumerate(_pieces(call, fetcher, per_step)):
            groups[start + offset if per_step else None].append(piece)
    neuron = used[0].neuron
    return [_sum_up(neuron, t, groups[t]) for t in sorted(groups, key=lambda t: t or 0)]


def _sum_up(neuron: str, t: int | None, pieces: list[_Piece]) -> Activity:
    return Activity(
        neuron=neuron,
        t=t,
        output_grad_norm=math.hypot(*(piece.grad_norm for piece in pieces)),
        alive=_ratio(sum(p.alive for p in pieces), sum(p.potentials for p in pieces)),
        firing_rate=_ratio(sum(p.fired for p in pieces), sum(p.outputs for p in pieces)),
    )


def _pieces(call: Call, fetcher: Fetcher, per_step: bool) -> list[_Piece]:
    apart = call.duration if per_step else 1
    fired = _in_steps(fetcher.values(call.fired), apart)
    grads = fetcher.values(call.grad_norm) if call.grads == 1 else []
    alive = _alive_in_steps([fetcher.values(count) for count in call.alive], apart)
    return [
        _Piece(
            fired=fired[t],
            outputs=call.shape.numel() / apart,
            alive=alive[t],
            potentials=sum(call.potentials) / apart if call.potentials else NAN,
            grad_norm=grads[t] if len(grads) == apart else NAN,
        )
        for t in range(apart)
    ]


def _alive_in_steps(counts: list[list[float]], steps: int) -> list[float]:
    """Alive potentials of each time step, from the counts of each call of the surrogate."""
    if len(counts) == 1:  # the neuron handed over all time steps at once
        return _in_steps(counts[0], steps)
    # It handed them over one after the other, perhaps in several calls a step.
    return _in_steps([sum(count) for count in counts], steps)


def _in_steps(values: list[float], steps: int) -> list[float]:
    """Sum ``values`` into as many equal runs as there are steps; NaN where they do not divide."""
    each, rest = divmod(len(values), steps)
    if rest or not each:
        return [NAN] * steps
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


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else NAN
