"""Which trainings the ablation study is made of, the most telling first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ablation_rules import RULES
from ablation_run import Run

EPOCHS = {"digits": 15, "fashion": 12, "nmnist": 30, "cifar10": 10}
IMAGES = {"digits": 0, "fashion": 400, "nmnist": 0, "cifar10": 800}


def setting(
    data: str, net: str, depth: int, surrogate: str, T: int | None = None, **changes: object
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

VANILLA: dict[str, object] = {}
HEADS: dict[str, object] = {"at": "auto", "head": "grid2"}
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
PER_STEP = ({**HOLD, "per_step": True},)
RULES_TRIED = tuple({**HEADS, "schedule": rule} for rule in RULES)
EVERY_THIRD = tuple({**method, "at": "every:3"} for method in (HOLD, RATIO))
VARIANTS = (*PLACES, *LOGITS, *STARTS, *SCHEDULES, *PER_STEP)
RATES = (0.03, 0.3, 0.01)


def plan() -> list[Run]:
    """All runs of the study, each once, in the order they are to be done in."""
    return list(dict.fromkeys(_in_order()))


def _in_order() -> Iterator[Run]:
    three = (0, 1, 2)
    fashion, vanishing = EASY[4:5], MORE[:3]
    often = (*CORE, *BY_DEPTH, *EASY, *vanishing)
    tuned = (*fashion, *vanishing, *CORE, *EASY)
    yield from cross(often, MAIN_METHODS, three)
    # At its best rate, 0.3, vanilla trains some seeds and not others: three say little.
    yield from rates((CORE[0], *vanishing[:2]), (VANILLA, RATIO), (0.3, 0.1), seeds=[3, 4])
    yield from cross(CORE, (CONSTANT, *AVERAGE, *GRIDS), three)
    yield from cross(DIGITS, (*VARIANTS, *RULES_TRIED), seeds=[0])
    yield from cross(fashion, (*RULES_TRIED, CONSTANT, AVERAGE[0], *GRIDS, *VARIANTS), seeds=[0])
    yield from rates(DIGITS, (VANILLA, HOLD), RATES, seeds=[0])
    yield from rates(tuned, (VANILLA, RATIO), RATES[1::-1], three)
    # With the rectangle, vanilla fares better at smaller rates.
    yield from rates(CORE[2:3], (VANILLA, RATIO), RATES[2:], three)
    yield from cross(fashion, (CONSTANT, *GRIDS), three)
    # Whether fewer heads do in shallow networks, and save spikes.
    shallow = [each for each in (*BY_DEPTH, *EASY) if each.depth <= 12]
    yield from cross((*shallow, CORE[1]), EVERY_THIRD, three)
    yield from longer((*CORE, *EASY), three)
    # Nothing trains this one at 0.1.
    hardest = [each for each in MORE if (each.depth, each.surrogate) == (30, "rect")]
    yield from rates(hardest, (VANILLA, RATIO), (0.01, 0.03), three)
    yield from cross(MORE, MAIN_METHODS, three)
    yield from five_seeds((*CORE, *BY_DEPTH, *EASY))
    yield from five_seeds(MORE)
    yield from five_seeds_elsewhere()
    yield from clipped()
    yield from longer(vanishing, three)
    # Of summed logits, which lose by far, one seed is enough.
    close = [each for each in VARIANTS if each not in LOGITS]
    yield from cross(fashion, (*close, *RULES_TRIED), three)
    yield from cross(DIGITS, close, seeds=[0, 1])


def five_seeds(settings: Iterable[Run]) -> Iterator[Run]:
    """Of digits, two seeds more than of the other data."""
    on_digits = [each for each in settings if each.data == "digits"]
    yield from cross(on_digits, MAIN_METHODS, seeds=[3, 4])
    tuned = [each for each in on_digits if each in (*CORE, *EASY, *MORE[:3])]
    yield from rates(tuned, (VANILLA, RATIO), RATES[:2], seeds=[3, 4])
    rect = [each for each in tuned if each == CORE[2]]
    yield from rates(rect, (VANILLA, RATIO), RATES[2:], seeds=[3, 4])
    yield from longer(tuned, seeds=[3, 4])


def five_seeds_elsewhere() -> Iterator[Run]:
    """Two seeds more where vanilla fails on other data: three leave intervals too wide."""
    cifar10 = [each for each in (*CORE, *EASY) if each.data == "cifar10" and each.depth > 6]
    elsewhere = [each for each in MORE if each.data != "digits"]
    yield from cross((*cifar10, *elsewhere), (VANILLA, RATIO), seeds=[3, 4])
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
    yield from rates(rectangles, both, (0.3,), range(3))
    yield from rates((*digits, *fashion), both, (0.3,), [3, 4])  # the best of their rates
    yield from rates(digits, both, (0.03,), range(3))


def cross(
    settings: Iterable[Run], methods: Iterable[dict[str, object]], seeds: Iterable[int]
) -> Iterator[Run]:
    methods = tuple(methods)
    for seed in seeds:
        for each in settings:
            for method in methods:
                yield replace(each, seed=seed, **method)


def rates(
    settings: Iterable[Run],
    methods: Iterable[dict[str, object]],
    tried: Iterable[float],
    seeds: Iterable[int],
) -> Iterator[Run]:
    """Vanilla's own best learning rate, and whether shortcuts depend on theirs."""
    methods, seeds = tuple(methods), tuple(seeds)
    for lr in tried:
        yield from cross([replace(each, lr=lr) for each in settings], methods, seeds)


def longer(settings: Iterable[Run], seeds: Iterable[int]) -> Iterator[Run]:
    """Vanilla with a quarter more epochs: more than shortcuts cost, for equal wall-clock time."""
    for each in settings:
        more = replace(each, epochs=math.ceil(each.epochs * 1.25))
        yield from cross([more], (VANILLA,), seeds)
