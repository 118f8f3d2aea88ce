"""Where heads by hand, and ours, run at all: a training step in each setting, tried for real."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from analysis.overhead.by_hand import HEADS, FeatureExtractor, Hooked, choose
from analysis.overhead.nets import Bench
from analysis.overhead.variants import Run, compiled, hooked, wrapped

__all__ = ["RUNS", "attempt_all"]

OURS = "default heads of this package"
RUNS = "runs"
NOT_THERE = {("spikformer", "s")}  # it knows step mode 'm' only


@contextmanager
def by_extractor(bench: Bench, whole: bool) -> Iterator[Run]:
    extractor = FeatureExtractor(bench.model, choose(bench.model), whole)
    yield lambda: extractor.loss(bench)


def compiled_by_hand(bench: Bench, made: nn.Module) -> None:
    torch._dynamo.reset()
    torch.compile(made, backend="eager", fullgraph=True)(bench.x)


def train(variant: Callable[[Bench], contextlib.AbstractContextManager[Run]], bench: Bench) -> None:
    """A training step in which the first layer and every head must get a gradient."""
    with variant(bench) as run:
        run().backward()
    first = next(p for p in bench.model.parameters() if p.ndim > 1)
    if first.grad is None:
        raise RuntimeError("the first layer got no gradient")


def compile_ours(bench: Bench) -> None:
    torch._dynamo.reset()
    with compiled("auto", "eager")(bench) as run:
        run().backward()
    breaks = bench.kept["graph breaks, at=auto"]
    if breaks:
        raise RuntimeError(f"{breaks} graph breaks")


def hooks(head: str) -> Callable[[Bench], nn.Module]:
    return lambda bench: Hooked(bench.model, choose(bench.model), HEADS[head], bench.mode)


def extractor(whole: bool) -> Callable[[Bench], nn.Module]:
    return lambda bench: FeatureExtractor(bench.model, choose(bench.model), whole).extractor


Attempt = Callable[[Bench], None]
# way -> setting -> what is tried
ATTEMPTS: dict[str, dict[str, Attempt]] = {
    OURS: {
        "trains": lambda bench: train(wrapped(), bench),
        "torch.compile": compile_ours,
    },
    "heads at every time step, on hooks": {
        "trains": lambda bench: train(hooked("linear"), bench),
        "torch.compile": lambda bench: compiled_by_hand(bench, hooks("linear")(bench)),
    },
    "convolutional spiking heads, on hooks": {
        "trains": lambda bench: train(hooked("convolutional"), bench),
        "torch.compile": lambda bench: compiled_by_hand(bench, hooks("convolutional")(bench)),
    },
    "create_feature_extractor": {
        "trains": lambda bench: train(lambda b: by_extractor(b, whole=False), bench),
    },
    "create_feature_extractor, SpikingJelly's modules as leaves": {
        "trains": lambda bench: train(lambda b: by_extractor(b, whole=True), bench),
        "torch.compile": lambda bench: compiled_by_hand(bench, extractor(True)(bench)),
    },
}


def attempt_all(nets: Sequence[str]) -> pd.DataFrame:
    """One row a network, way, setting and step mode: that it runs, or the error."""
    tries = [
        (net, way, setting, mode)
        for net in nets
        for way, settings in ATTEMPTS.items()
        for setting in settings
        for mode in ("m", "s")
        if (setting, mode) != ("torch.compile", "s") and (net, mode) not in NOT_THERE
    ]
    rows = []
    for net, way, setting, mode in tqdm(tries, "attempts", dynamic_ncols=True):
        bench = Bench(net, T=2, batch=2, mode=mode, device=torch.device("cpu"))
        outcome = _outcome(ATTEMPTS[way][setting], bench)
        rows.append({"net": net, "way": way, "setting": setting, "mode": mode, "outcome": outcome})
    return pd.DataFrame(rows)


def _outcome(attempt: Attempt, bench: Bench) -> str:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            attempt(bench)
        except Exception as error:  # whatever it is, it is the finding
            first = str(error).strip().splitlines()[:1] or [""]
            return f"{type(error).__name__}: {first[0]}"
    return RUNS
