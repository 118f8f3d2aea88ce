"""Which trainings the ablation study is made of, the most telling first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from analysis.ablation.rules import RULES
from analysis.ablation.run import Run

__all__ = ["HOLD", "RATIO", "SEEDS", "VANILLA", "cross", "plan", "setting"]

Method = dict[str, Any]  # what `replace` makes of a vanilla run

EPOCHS = {"digits": 15, "fashion": 12, "nmnist": 30, "cifar10": 10}
SEEDS = {"digits": 5, "fashion": 3, "nmnist": 3, "cifar10": 3}
IMAGES = {"digits": 0, "fashion": 400, "nmnist": 0, "cifar10": 800}


def setting(
    data: str, net: str, depth: int, surrogate: str, T: int | None = None, **changes: Any
) -> Run:
    """Vanilla training in one setting; methods are made of it by `replace`."""
    steps = T or (4 if data == "nmnist" else 2)
    vanilla = Run(
        data=data,
        images=IMAGES[data],
        net=net,
        depth=depth,
        T=steps,
        surrogate=surrogate,
        head="none",
        at="none",
        combine="loss",
        schedule="none",
        start=1.0,
        per_step=False,
        lr=0.1,
        epochs=EPOCHS[data],
        seed=0,
    )
    return replace(vanilla, **changes)


# The settings in which all methods are compared.
CORE = (
    setting("digits", "plain", 18, "atan"),
    setting("digits", "plain", 30, "atan"),
    setting("digits", "plain", 18, "rect"),
    setting("digits", "resnet", 20, "atan"),
    setting("nmnist", "plain", 18, "atan"),
    setting("cifar10", "plain", 18, "rect"),
)
DIGITS = CORE[:4]  # minutes instead of hours
DEPTHS = (6, 12, 18, 30, 48, 96)
BY_DEPTH = tuple(setting("digits", "plain", depth, "atan") for depth in DEPTHS)
# Where vanilla trains well already, nothing should be lost.
EASY = (
    setting("digits", "plain", 6, "rect"),
    setting("digits", "sew", 20, "atan"),
    setting("nmnist", "plain", 6, "atan"),
    setting("nmnist", "sew", 20, "atan"),
    setting("fashion", "plain", 6, "atan"),
    setting("cifar10", "plain", 6, "rect"),
    setting("cifar10", "resnet", 20, "rect"),
)
MORE = (
    setting("nmnist", "plain", 30, "atan"),
    setting("fashion", "plain", 30, "atan"),
    setting("digits", "plain", 30, "sigmoid"),
    setting("digits", "plain", 18, "atan", T=10),
    setting("fashion", "plain", 18, "rect"),
    setting("digits", "plain", 18, "atan", T=4),
    setting("digits", "plain", 18, "sigmoid"),
    setting("digits", "plain", 30, "rect"),
    setting("nmnist", "plain", 18, "rect"),
    setting("cifar10", "plain", 18, "atan"),
)

VANILLA: Method = {}
HEADS: Method = {"at": "auto", "head": "grid2"}
HOLD = {**HEADS, "schedule": "hold-linear"}
RATIO = {**HEADS, "schedule": "ratio-each"}
CONSTANT = {**HEADS, "schedule": "constant"}
AVERAGE = tuple({**method, "head": "average"} for method in (HOLD, RATIO, CONSTANT))
MAIN_METHODS = (VANILLA, HOLD, RATIO)
GRIDS = tuple({**HOLD, "head": head} for head in ("grid3", "grid4"))
PLACES = tuple({**HOLD, "at": at} for at in ("stages", "every:6", "every:3", "all"))
SCHEDULES = tuple({**HEADS, "schedule": name} for name in ("linear", "cosine", "exponential"))
LOGITS = tuple(
    {**HEADS, "combine": "logits", "schedule": name}
    for name in ("linear", "cosine", "exponential", "hold-cosine")
)
STARTS = tuple({**HOLD, "start": start} for start in (0.1, 0.3, 3.0))
# The paper's way, and the same with losses: λ falls to 0 in a line, iteration by iteration.
SUMMED = tuple(
    {"at": at, "head": head, "combine": combine, "schedule": "linear-by-step", "start": start}
    for combine in ("logits", "loss")
    for at in ("stages", "auto")
    for head in ("average", "grid2")
    for start in (0.25, 0.1, 0.5, 1.0)
)
PER_STEP = ({**HOLD, "per_step": True},)
RULES_TRIED = tuple({**HEADS, "schedule": rule} for rule in RULES)
EVERY_THIRD = tuple({**method, "at": "every:3"} for method in (HOLD, RATIO))
VARIANTS = (*PLACES, *LOGITS, *STARTS, *SCHEDULES, *PER_STEP)
RATES = (0.3, 0.03, 0.01)


def plan() -> list[Run]:
    """All runs of the study, each once, in the order they are to be done in."""
    return list(dict.fromkeys(_in_order()))


def _in_order() -> Iterator[Run]:
    both = (VANILLA, RATIO)
    fashion, vanishing = EASY[4:5], MORE[:3]
    yield from cross((*CORE, *BY_DEPTH, *EASY, *MORE), MAIN_METHODS)
    yield from cross(CORE, (CONSTANT, *AVERAGE, *GRIDS))
    most = (*RULES_TRIED, CONSTANT, AVERAGE[0], *GRIDS, *VARIANTS)
    yield from cross((*DIGITS, *fashion), most)
    yield from rates((*CORE, *EASY, *vanishing), both, RATES[:2])
    yield from rates(DIGITS, both, RATES[2:])
    # Nothing trains this one at 0.1.
    hardest = [each for each in MORE if (each.depth, each.surrogate) == (30, "rect")]
    yield from rates(hardest, both, (0.01, 0.03))
    # Whether fewer heads do in shallow networks, and save spikes.
    shallow = [each for each in (*BY_DEPTH, *EASY) if each.depth <= 12]
    yield from cross((*shallow, CORE[1]), EVERY_THIRD)
    yield from longer((*CORE, *EASY, *vanishing))
    yield from five_seeds_elsewhere()
    yield from clipped()
    yield from bracketing()
    # Each way of adding up has its own best λ₀, heads and places.
    yield from cross((*DIGITS, *fashion), SUMMED, range(3))


def five_seeds_elsewhere() -> Iterator[Run]:
    """Two seeds more where vanilla fails on other data, added after test intervals of three were
    seen to be wide."""
    cifar10 = [each for each in (*CORE, *EASY) if each.data == "cifar10" and each.depth > 6]
    elsewhere = [each for each in MORE if each.data != "digits"]
    yield from cross((*cifar10, *elsewhere), (VANILLA, RATIO), seeds=[3, 4])
    # At 0.3, the best of its rates run, vanilla's seeds end far apart.
    yield from rates(MORE[:2], (VANILLA, RATIO), (0.3,), seeds=[3, 4])
    plain = [each for each in cifar10 if each.net == "plain"]
    yield from rates(plain, (VANILLA,), (0.03,), seeds=[3, 4])  # its best rate


def clipped() -> Iterator[Run]:
    """With the rectangle, gradients of deep networks explode; clipping is the usual cure."""
    both = (VANILLA, RATIO)
    rectangles = [each for each in (*CORE, *MORE) if each.surrogate == "rect"]
    rectangles = [replace(each, clip=1.0) for each in rectangles]
    digits = [each for each in rectangles if each.data == "digits"]
    fashion = [each for each in rectangles if each.data == "fashion"]
    yield from cross(rectangles, both, range(5))
    yield from rates(rectangles, both, (0.3,))
    yield from rates(fashion, both, (0.3,), [3, 4])  # the best of its rates
    yield from rates(digits, both, (0.03,))


def bracketing() -> Iterator[Run]:
    """Vanilla at rates on both sides of its best, three seeds, where these had not been run."""
    one_rate = [*BY_DEPTH[:2], *BY_DEPTH[4:], MORE[3], *MORE[4:7], *MORE[8:]]
    best_was_highest = [
        *CORE[:2], CORE[4], *MORE[:2], EASY[1], *EASY[3:6],
        *(replace(each, clip=1.0) for each in (CORE[5], MORE[4])),
    ]  # fmt: skip
    best_was_lowest = [replace(MORE[8], clip=1.0)]
    seeds = range(3)
    yield from rates(one_rate, (VANILLA,), (0.3, 0.03, 1.0), seeds)
    yield from rates(best_was_highest, (VANILLA,), (1.0,), seeds)
    yield from rates(best_was_lowest, (VANILLA,), (0.03,), seeds)


def cross(
    settings: Iterable[Run],
    methods: Iterable[Method],
    seeds: Iterable[int] | None = None,
) -> Iterator[Run]:
    """Each method in each setting, with these seeds or as many as the data set gets."""
    settings, methods = tuple(settings), tuple(methods)
    for seed in range(max(SEEDS.values())) if seeds is None else seeds:
        for each in settings:
            if seeds is None and seed >= SEEDS[each.data]:
                continue
            for method in methods:
                yield replace(each, seed=seed, **method)


def rates(
    settings: Iterable[Run],
    methods: Iterable[Method],
    tried: Iterable[float],
    seeds: Iterable[int] | None = None,
) -> Iterator[Run]:
    """Vanilla's own best learning rate, and whether shortcuts depend on theirs."""
    settings, methods = tuple(settings), tuple(methods)
    for lr in tried:
        yield from cross([replace(each, lr=lr) for each in settings], methods, seeds)


def longer(settings: Iterable[Run]) -> Iterator[Run]:
    """Vanilla with a quarter more epochs: more than shortcuts cost, for equal wall-clock time."""
    more = [replace(each, epochs=math.ceil(each.epochs * 1.25)) for each in settings]
    yield from cross(more, (VANILLA,))
