"""Ways of training a network: as it is, with shortcut heads of ours, with heads made by hand.

A variant is a context. It prepares the network of a bench, yields what does forward pass and loss
(the backward pass follows), and leaves the network as it was.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import FunctionType

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from analysis.overhead.by_hand import HEADS, FeatureExtractor, Hooked, choose
from analysis.overhead.nets import Bench
from analysis.overhead.timing import now, peak_bytes
from sj_shortcut import (
    ShortcutBranch,
    ShortcutHead,
    ShortcutLoss,
    remove_shortcuts,
    shortcut_branches,
    wrap_with_shortcuts,
)
from sj_shortcut.places.at import At

__all__ = [
    "Run",
    "TimeFirst",
    "Variant",
    "alone",
    "bare",
    "check_same_tree",
    "compiled",
    "evaluated",
    "evaluated_again",
    "evaluated_wrapped",
    "extracted",
    "hooked",
    "peak_mib",
    "removed",
    "second_copy",
    "seconds",
    "wrapped",
    "wrapping",
]

# Of all heads that are measured, whatever the default makes of the size of the network.
GRID = 2

Run = Callable[[], Tensor]
Variant = Callable[[Bench], AbstractContextManager[Run]]


class TimeFirst(ShortcutHead):
    """The default head as it was up to 0.1.0: what is not exactly it gets the average over time."""


@contextmanager
def bare(bench: Bench) -> Iterator[Run]:
    yield lambda: bench.criterion(bench.logits(bench.model), bench.y)


def wrapped(at: At = "auto", head: type[ShortcutHead] | None = None) -> Variant:
    """Heads of ours, in for this step and out again: both measure the very same weights."""

    @contextmanager
    def variant(bench: Bench) -> Iterator[Run]:
        model = wrap_with_shortcuts(bench.model, at, head=head, grid=None if head else GRID)
        criterion = ShortcutLoss(model, bench.criterion)
        bench.logits(bench.model)  # the first batch is looked at, once in a training
        bench.clear()
        yield lambda: criterion(bench.logits(bench.model), bench.y)
        remove_shortcuts(bench.model)

    return variant


def alone(head: type[ShortcutHead]) -> Variant:
    """Heads without a model: forward and backward pass on what the default points gave once."""

    def tap(bench: Bench) -> list[tuple[ShortcutBranch, Tensor]]:
        model = wrap_with_shortcuts(bench.another(), head=head)
        found: list[tuple[ShortcutBranch, Tensor]] = []
        for name, branch in shortcut_branches(model).items():
            keep = partial(_keep_first, found, branch)
            model.get_submodule(name).register_forward_hook(keep)
        bench.logits(model)
        return found

    @contextmanager
    def variant(bench: Bench) -> Iterator[Run]:
        taps = bench.keep(f"alone, {head.__name__}", lambda: tap(bench))
        yield lambda: torch.stack([branch(x, with_time=True).sum() for branch, x in taps]).sum()

    return variant


def _keep_first(
    found: list[tuple[ShortcutBranch, Tensor]],
    branch: ShortcutBranch,
    module: nn.Module,
    args: object,
    output: Tensor,
) -> None:
    found.append((branch, output.detach().requires_grad_()))


@contextmanager
def evaluated(bench: Bench) -> Iterator[Run]:
    """Inference, without heads."""
    yield _inference(bench, bench.keep("evaluated", bench.another))


@contextmanager
def evaluated_again(bench: Bench) -> Iterator[Run]:
    """The same of another copy."""
    yield _inference(bench, bench.keep("evaluated again", bench.another))


@contextmanager
def evaluated_wrapped(bench: Bench) -> Iterator[Run]:
    """Inference, with heads in a copy of the model, which do not run."""

    def with_heads() -> nn.Module:
        return wrap_with_shortcuts(bench.another(), grid=GRID)

    yield _inference(bench, bench.keep("evaluated wrapped", with_heads))


def _inference(bench: Bench, model: nn.Module) -> Run:
    return torch.no_grad()(lambda: bench.logits(model.eval()))


@contextmanager
def removed(bench: Bench) -> Iterator[Run]:
    """A second model of the same weights that had heads for one step."""

    def had_heads() -> nn.Module:
        model = bench.another()
        criterion = ShortcutLoss(wrap_with_shortcuts(model, grid=GRID), bench.criterion)
        criterion(bench.logits(model), bench.y).backward()
        bench.clear()
        check_same_tree(remove_shortcuts(model), bench.model)
        return model

    model = bench.keep("had heads", had_heads)
    yield lambda: bench.criterion(bench.logits(model), bench.y)


@contextmanager
def second_copy(bench: Bench) -> Iterator[Run]:
    """A second model that never had heads: how far apart two of the same are."""
    model = bench.keep("second copy", bench.another)
    yield lambda: bench.criterion(bench.logits(model), bench.y)


def check_same_tree(model: nn.Module, other: nn.Module) -> None:
    """Raise unless both have the same modules, parameters, buffers and hooks by name."""

    def tree(root: nn.Module) -> list[tuple[object, ...]]:
        return [
            (name, type(m), len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m)))
            for name, m in root.named_modules()
        ]

    if tree(model) != tree(other) or list(model.state_dict()) != list(other.state_dict()):
        raise AssertionError("remove_shortcuts did not give back the module tree")


# By hand.


def hooked(head: str) -> Variant:
    """Heads of the name in ``HEADS`` on hooks that keep what the default points give."""

    @contextmanager
    def variant(bench: Bench) -> Iterator[Run]:
        points = bench.keep("points", lambda: choose(bench.model))
        by_hand = Hooked(bench.model, points, HEADS[head], bench.mode).to(bench.device)
        yield lambda: by_hand.loss(bench)
        by_hand.unhook()

    return variant


@contextmanager
def extracted(bench: Bench) -> Iterator[Run]:
    """torchvision's feature extractor, told to leave SpikingJelly's modules whole, and heads."""

    def extract() -> FeatureExtractor:
        return FeatureExtractor(bench.model, choose(bench.model)).to(bench.device)

    extractor = bench.keep("extractor", extract)
    yield lambda: extractor.loss(bench)
    extractor.zero_grad()


# Compiled.


def compiled(at: At | None = None, backend: str = "inductor") -> Variant:
    """A compiled copy, with heads or without."""
    name = f"compiled, {at}"

    def compile_copy(bench: Bench) -> Run:
        model = bench.another()
        criterion: nn.Module = bench.criterion
        if at is not None:
            criterion = ShortcutLoss(wrap_with_shortcuts(model, at, grid=GRID), criterion)
        # Compiled code is kept by code object: each copy needs one of its own.
        forward = FunctionType(_call.__code__.replace(co_name=f"call_{id(model)}"), globals())
        fast = torch.compile(forward, backend=backend, dynamic=False)
        return lambda: criterion(bench.logits(lambda x: fast(model, x)), bench.y)

    @contextmanager
    def variant(bench: Bench) -> Iterator[Run]:
        new = name not in bench.kept
        if new:
            counters.clear()
        yield bench.keep(name, lambda: compile_copy(bench))
        if new:
            bench.kept[f"graph breaks, at={at}"] = sum(counters["graph_break"].values())

    return variant


def _call(model: nn.Module, x: Tensor) -> Tensor:
    output: Tensor = model(x)
    return output


# Measuring.


def seconds(bench: Bench, variant: Variant) -> float:
    """Time of forward pass, loss and backward pass (if there are gradients)."""
    with variant(bench) as run:
        start = now(bench.device)
        _complete(run)
        took = now(bench.device) - start
    bench.clear()
    return took


def wrapping(bench: Bench, at: At, times: int) -> tuple[int, float]:
    """Number of heads, and median seconds a head that it takes to put them in."""
    samples = []
    for _ in range(times):
        start = now(bench.device)
        wrap_with_shortcuts(bench.model, at, grid=GRID)
        samples.append(now(bench.device) - start)
        heads = len(shortcut_branches(bench.model))
        remove_shortcuts(bench.model)
    return heads, statistics.median(samples) / heads


def peak_mib(bench: Bench, variant: Variant) -> float:
    """Most memory in use at once during the same: the model's, the batch's and the step's own."""
    held = _bytes_of([bench.x, bench.y, *bench.model.parameters(), *bench.model.buffers()])
    before = {id(tensor) for tensor in _alive()}
    with variant(bench) as run:
        # What the variant adds to the model; whatever goes meanwhile is not of the model.
        held += _bytes_of([tensor for tensor in _alive() if id(tensor) not in before])
        peak = held + peak_bytes(lambda: _complete(run), bench.device)
    bench.clear()
    return peak / 2**20


def _alive() -> list[Tensor]:
    gc.collect()
    return [found for found in gc.get_objects() if type(found) in (Tensor, nn.Parameter)]


def _bytes_of(tensors: Sequence[Tensor]) -> int:
    return sum({id(tensor): tensor.nbytes for tensor in tensors}.values())


def _complete(run: Run) -> None:
    result = run()
    if result.requires_grad:
        result.backward()
