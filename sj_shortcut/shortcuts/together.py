"""Default heads of a model, computed together, of all time steps at once.

Heads of one forward pass are computed when the model has run; of forwards that are time steps of
each other, once someone asks for their logits.

A head needs of its point no more than the averages of the features. Taken together, heads of equal
width are one batched product, and the gradients of all biases one sum: 2 to 3 kernels a head
instead of 4, and a few calls of Python for all instead of some for each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sj_shortcut.shortcuts.branch import ShortcutBranch
from sj_shortcut.shortcuts.forwards import Forwards, Record
from sj_shortcut.shortcuts.head import ShortcutHead
from sj_shortcut.shortcuts.linears import Linears
from sj_shortcut.torch_model import is_captured, is_plain

__all__ = [
    "check_batch_sizes",
    "compute_together",
    "compute_waiting",
    "head_that_waits",
    "may_wait_on",
    "wait",
]


_USUAL = (nn.Parameter, Tensor)  # of weights


@dataclass
class _Waiting:
    """What a head waits with.

    Attributes:
        weight: Of its linear layer, as it was when the point ran; ``bias`` likewise.
        version: Of the weight then; ``trains`` whether each of the two was to learn.
        dtype: What autocast had products computed in; ``None`` without it, as in float64.
        features: Averages of each call, ``[N, F]``, per step ``[T, N, F]``.
        steps: Time steps in each call.
    """

    weight: Tensor
    bias: Tensor
    version: int
    trains: tuple[bool, bool]
    dtype: torch.dtype | None
    features: list[Tensor] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)

    def of_all_calls(self) -> Tensor:
        """Steps behind each other; or their average, as the head is linear."""
        if len(self.features) == 1:
            return self.features[0]
        if self.features[0].ndim == 3:
            return torch.cat(self.features)
        if len(set(self.steps)) == 1:
            return torch.stack(self.features).mean(0)
        sums = [x * steps for x, steps in zip(self.features, self.steps, strict=True)]
        return torch.stack(sums).sum(0) / sum(self.steps)

    def is_like(self, other: _Waiting) -> bool:
        """Whether the other waits with the same weights."""
        same = self.weight is other.weight and self.bias is other.bias
        same = same and self.trains == other.trains
        return same and self.version == other.version and self.dtype == other.dtype

    def parameters(self) -> list[Tensor]:
        """Weight and bias; what was frozen when the point ran learns nothing of it later."""
        weight, bias = self.trains
        return [
            self.weight if weight else self.weight.detach(),
            self.bias if bias else self.bias.detach(),
        ]


def head_that_waits(
    run: nn.Module, branch: ShortcutBranch, forwards: Forwards
) -> ShortcutHead | None:
    """The head, where to compute it from its weights later is all that running it now would do.

    A compiler fuses what it sees anyway.

    Args:
        run: What a branch is run by.
        branch: The branch.
        forwards: What is known of the model's forwards.
    """
    if not forwards.together or run is not branch or not is_plain(branch, ShortcutBranch):
        return None
    head = branch._modules["head"]  # nn.Module would look at three dictionaries for it
    if not is_plain(head, ShortcutHead) or torch._C._are_functorch_transforms_active():
        return None
    linear = head._modules["linear"]
    if not is_plain(linear, nn.Linear):
        return None
    weight, bias = _weight_and_bias(linear)
    # Given by functional_call they are tensors; of other classes, as if sharded, no one knows.
    usual = type(weight) in _USUAL and type(bias) in _USUAL
    if not usual or weight.shape != (branch.num_classes, branch.channels * head.grid**2):
        return None
    return head


def _weight_and_bias(linear: nn.Module) -> tuple[Any, Any]:
    """Its parameters; ``None`` where they are none, as an old weight norm makes them."""
    own = linear._parameters
    return (own["weight"] if "weight" in own else None), (own["bias"] if "bias" in own else None)


def wait(
    record: Record, name: str, head: ShortcutHead, features: Tensor, steps: int, timed: bool
) -> None:
    """Let a head wait for the end of the forward.

    Args:
        record: The record of the forward.
        name: The point.
        head: The :func:`head_that_waits`.
        features: Averages of one call, ``[N, F]``; per step, of a call with time, ``[T, N, F]``.
        steps: Time steps in the call.
        timed: Whether the call has time of its own.
    """
    waiting = record.waiting.get(name)
    if waiting is None:
        device = features.device.type
        autocast = torch.is_autocast_enabled(device) and features.dtype != torch.float64
        dtype = torch.get_autocast_dtype(device) if autocast else None
        both = _weight_and_bias(head.linear)
        trains = both[0].requires_grad, both[1].requires_grad
        version = 0 if both[0].is_inference() else both[0]._version
        waiting = _Waiting(*both, version, trains, dtype)
        record.waiting[name], record.averages[name] = waiting, waiting.features
        record.logits[name] = []  # its place in the order of execution
    elif waiting.features[0].shape[-2] != features.shape[-2]:
        raise RuntimeError(
            f"the batch size at '{name}' changed between the calls of one forward pass "
            f"({waiting.features[0].shape[-2]} and {features.shape[-2]} samples), which are taken "
            "for time steps: choose another point with at=."
        )
    if waiting.steps or timed:
        record.single = False
    if record.forwards.per_step and not timed:
        features = features.unsqueeze(0)
    waiting.features.append(features)
    waiting.steps.append(steps)


def may_wait_on(record: Record) -> bool:
    """Whether heads can wait for who asks: the forward was one time step, of which more may come.

    A CUDA graph gives the same tensors again at each replay.

    Args:
        record: The record of a forward that ends.
    """
    waiting = list(record.waiting.values())
    return record.single and len(waiting) > 0 and not is_captured(waiting[0].features[0])


def compute_waiting(record: Record) -> None:
    """Compute the heads that wait, ``[N, K]`` or ``[T, N, K]`` each, and give them to the record.

    Args:
        record: The record of a forward.
    """
    waiting, record.waiting = record.waiting, {}
    for name, logits in _logits(waiting).items():
        record.logits[name] = [logits]
        record.steps[name] = [sum(waiting[name].steps)]


def compute_together(records: Sequence[Record]) -> dict[str, Tensor]:
    """Logits of the heads that wait in forwards of one time step each, by name.

    The average over time comes before the head, which is linear: one product instead of one for
    each step. Who asks again is given the same.

    Args:
        records: The forwards, in the order of time.

    Returns:
        ``[N, K]``; per step ``[T, N, K]``.

    Raises:
        RuntimeError: If the batch size changed from one forward to the next, or the weights since.
    """
    if not any(record.waiting for record in records):
        return {}
    waiting = _of_all(records)
    if waiting is None:
        for record in records:
            _check_unchanged(record.waiting)
            with torch.set_grad_enabled(record.graded):
                compute_waiting(record)
        return {}
    numbers = tuple(record.number for record in records)
    known = records[-1].together
    if known is None or known[0] != numbers:
        _check_unchanged(waiting)
        with torch.set_grad_enabled(records[-1].graded):
            known = records[-1].together = (numbers, _logits(waiting))
    return known[1]


def _of_all(records: Sequence[Record]) -> dict[str, _Waiting] | None:
    """What waits in several forwards; ``None`` where they are to be computed one by one.

    That is, where each has weights of its own, or some were computed already.
    """
    if len(records) == 1:
        return records[0].waiting
    found: dict[str, _Waiting] = {}
    for record in records:
        for name, one in record.waiting.items():
            of_all = found.setdefault(name, replace(one, features=[], steps=[]))
            if not of_all.is_like(one):
                return None
            of_all.features.extend(one.features)
            of_all.steps.extend(one.steps)
    for name, one in found.items():
        check_batch_sizes(name, {x.shape[-2] for x in one.features})
    some = any(record.logits.get(name) for record in records for name in found)
    return None if some else found


def check_batch_sizes(name: str, sizes: Collection[int]) -> None:
    """Refuse time steps of different batches, which would add up if one of them is 1.

    Args:
        name: The point.
        sizes: Of all time steps that gathered.

    Raises:
        RuntimeError: If there is more than one size.
    """
    if len(sizes) > 1:
        raise RuntimeError(
            f"the batch size at '{name}' changed between time steps, which gather until "
            f"functional.reset_net(model) or a loss ({' and '.join(map(str, sorted(sizes)))} "
            "samples): reset the model before a new batch."
        )


def _check_unchanged(waiting: Mapping[str, _Waiting]) -> None:
    for name, one in waiting.items():
        if not one.weight.is_inference() and one.weight._version != one.version:
            raise RuntimeError(
                f"the weights of the shortcut head at '{name}' changed since the forward passes "
                "whose logits are asked for, as by optimizer.step(): take the loss, or call "
                "shortcut_logits(model), before."
            )


def _logits(waiting: Mapping[str, _Waiting]) -> dict[str, Tensor]:
    """Logits of each head, ``[N, K]`` or ``[T, N, K]``."""
    features = {name: one.of_all_calls() for name, one in waiting.items()}
    found: dict[str, Tensor] = {}
    for names in _alike(features, waiting):
        rows = [features[name].flatten(0, -2) for name in names]
        weights, biases = zip(*(waiting[n].parameters() for n in names), strict=True)
        given = Linears.apply(waiting[names[0]].dtype, *rows, *weights, *biases)
        for name, logits in zip(names, given, strict=True):
            shape = features[name].shape[:-1]
            found[name] = logits if len(shape) == 1 else logits.unflatten(0, shape)
    return found


def _alike(features: Mapping[str, Tensor], waiting: Mapping[str, _Waiting]) -> Iterator[list[str]]:
    """Heads whose logits can be one tensor, those of equal width behind each other."""
    found: dict[Any, list[str]] = {}
    for name, x in features.items():
        weight, dtype = waiting[name].weight, waiting[name].dtype
        kind = x.shape[:-1], x.device, x.dtype, weight.shape[0], weight.device, weight.dtype, dtype
        found.setdefault(kind, []).append(name)
    for names in found.values():
        yield sorted(names, key=lambda name: features[name].shape[-1])
