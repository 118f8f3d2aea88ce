"""Where the gradient of a part of the output arrives at the features of a pass."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sj_shortcut.places.example_pass import Pass
from sj_shortcut.places.time_axis import indices

__all__ = [
    "Support",
    "are_apart",
    "both_depend",
    "both_ends",
    "gradients",
    "sum_that_stays",
    "support",
]

Support = Mapping[str, list[set[int]]]


def both_ends(seen: Pass, output: Tensor, axis: int) -> tuple[Support, Support]:
    """The support of the first and of the last slice of an output along an axis."""
    return tuple(support(seen, output.select(axis, end)) for end in (0, -1))  # type: ignore[return-value]


def support(seen: Pass, part: Tensor) -> Support:
    """For each feature, the indices along each axis that a part of the output depends on."""
    found = {}
    for name, grads in gradients(seen, part).items():
        marked = [indices(grad != 0) for grad in grads if grad.ndim == grads[0].ndim]
        found[name] = [set().union(*(one[a] for one in marked)) for a in range(grads[0].ndim)]
    return found


def gradients(seen: Pass, part: Tensor) -> dict[str, list[Tensor]]:
    """Gradients at the features that part of an output has."""
    if not part.requires_grad:
        return {}
    features = [(s.name, f) for s in seen.sights.values() for f in s.outputs]
    grads = torch.autograd.grad(
        sum_that_stays(part), [f for _, f in features], retain_graph=True, allow_unused=True
    )
    found: dict[str, list[Tensor]] = {}
    for (name, _), grad in zip(features, grads, strict=True):
        if grad is not None:
            found.setdefault(name, []).append(grad)
    return found


def sum_that_stays(part: Tensor) -> Tensor:
    """A sum that is no constant where the plain one is, as over what a norm has centred."""
    return (part.float() * (1 + torch.rand_like(part, dtype=torch.float32))).sum()


def are_apart(first: Support, last: Support) -> bool:
    """Whether two parts of the output have no slice of any feature in common."""
    common = _common(first, last)
    return bool(common) and all(
        any(a and b and not a & b for a, b in zip(first[name], last[name], strict=True))
        for name in common
    )


def both_depend(first: Support, last: Support) -> bool:
    """Whether two parts of the output have slices along every axis of some feature in common."""
    return any(
        all(a & b for a, b in zip(first[name], last[name], strict=True))
        for name in _common(first, last)
    )


def _common(first: Support, last: Support) -> list[str]:
    return [name for name in first if name in last and any(first[name]) and any(last[name])]
