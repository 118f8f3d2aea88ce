"""Default heads of one forward pass, computed together once the model has run.

A head needs of its point no more than the averages of the features. Taken together, heads of equal
width are one batched product, and the gradients of all biases one sum: 2 to 3 kernels a head
instead of 4, and a few calls of Python for all instead of some for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sj_shortcut.shortcuts.branch import ShortcutBranch
from sj_shortcut.shortcuts.forwards import Forwards, Record
from sj_shortcut.shortcuts.head import ShortcutHead
from sj_shortcut.torch_model import is_captured, is_plain

__all__ = ["compute_waiting", "head_that_waits", "wait"]

# Weights up to this size are copied side by side; of larger ones the copy costs more than a launch.
_SMALL = 1 << 13


@dataclass
class _Waiting:
    """What a head waits with.

    Attributes:
        weight: Of its linear layer, as it was when the point ran; ``bias`` likewise.
        dtype: What autocast had products computed in; ``None`` without it.
        features: Averages of each call, ``[N, F]``, per step ``[T, N, F]``.
        steps: Time steps in each call.
    """

    weight: Tensor
    bias: Tensor
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
    head = branch.head
    if not is_plain(head, ShortcutHead) or torch._C._are_functorch_transforms_active():
        return None
    linear = head.linear
    # Given by functional_call they are tensors; of other classes, as if sharded, no one knows.
    usual = _is_usual(linear.weight) and _is_usual(linear.bias) and is_plain(linear, nn.Linear)
    fit = linear.weight.shape == (branch.num_classes, branch.channels * head.grid**2)
    return head if usual and fit else None


def _is_usual(parameter: Tensor) -> bool:
    return type(parameter) in (nn.Parameter, Tensor)


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
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else None
        linear = head.linear
        waiting = record.waiting[name] = _Waiting(linear.weight, linear.bias, dtype)
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


def compute_waiting(record: Record) -> None:
    """Compute the heads that wait, ``[N, K]`` or ``[T, N, K]`` each, and give them to the record.

    Args:
        record: The record of a forward that ends.
    """
    waiting, record.waiting = record.waiting, {}
    record.averages = {name: one.features for name, one in waiting.items()}
    features = {name: one.of_all_calls() for name, one in waiting.items()}
    for names in _alike(features, waiting):
        rows = [features[name].flatten(0, -2) for name in names]
        weights, biases = zip(*((waiting[n].weight, waiting[n].bias) for n in names), strict=True)
        found = _Linears.apply(waiting[names[0]].dtype, *rows, *weights, *biases)
        for name, logits in zip(names, found, strict=True):
            shape = features[name].shape[:-1]
            record.logits[name] = [logits if len(shape) == 1 else logits.unflatten(0, shape)]
            record.steps[name] = [sum(waiting[name].steps)]


def _alike(features: Mapping[str, Tensor], waiting: Mapping[str, _Waiting]) -> Iterator[list[str]]:
    """Heads whose logits can be one tensor, those of equal width behind each other."""
    found: dict[Any, list[str]] = {}
    for name, x in features.items():
        weight, dtype = waiting[name].weight, waiting[name].dtype
        kind = (x.shape[:-1], x.device, x.dtype, len(weight), weight.device, weight.dtype, dtype)
        found.setdefault(kind, []).append(name)
    for names in found.values():
        yield sorted(names, key=lambda name: features[name].shape[-1])


class _Linears(torch.autograd.Function):
    """Linear layers for as many features, those of one width side by side as one product."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(tensors) // 3
        features, weights, biases = (tensors[i * count : (i + 1) * count] for i in range(3))
        ctx.groups = _groups(weights)
        x = [_stacked(features[a:b], dtype) for a, b in ctx.groups]
        w = [_stacked(weights[a:b], dtype) for a, b in ctx.groups]
        bias = _stacked(biases, dtype).unsqueeze(1)
        logits = bias.new_empty(count, x[0].shape[1], bias.shape[2])
        for (a, b), features_, weights_ in zip(ctx.groups, x, w, strict=True):
            if b - a == 1:  # to the bit what the linear layer gives
                torch.addmm(bias[a, 0], features_[0], weights_[0].T, out=logits[a])
            else:
                torch.baddbmm(bias[a:b], features_, weights_.mT, out=logits[a:b])
        ctx.dtype, ctx.captured = dtype, is_captured(logits)
        ctx.save_for_backward(*tensors, *x, *w)
        ctx.set_materialize_grads(False)
        return logits.unbind()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        count = len(grads)
        saved, groups = ctx.saved_tensors, ctx.groups
        stacks = saved[3 * count :]
        found: list[Tensor | None] = [None] * (3 * count)
        # A head that is in no loss gets no gradient rather than zeros: these would become NaN where
        # its weights are, and optimizers would take them for a reason to decay its weights.
        used = [i for i, grad in enumerate(grads) if grad is not None]
        if not used:
            return (None, *found)
        grad = torch.stack([grad for grad in grads if grad is not None])
        if any(ctx.needs_input_grad[1 + 2 * count :]):
            for i, one in zip(used, grad.sum(1).unbind(), strict=True):
                found[2 * count + i] = one
        begin = 0
        for number, (a, b) in enumerate(groups):
            members = [i for i in used if a <= i < b]
            if not members:
                continue
            own = grad[begin : begin + len(members)]
            begin += len(members)
            x, w = stacks[number], stacks[len(groups) + number]
            if len(members) < b - a or torch.is_grad_enabled():  # differentiable once more
                x = _stacked([saved[i] for i in members], ctx.dtype)
                w = _stacked([saved[count + i] for i in members], ctx.dtype)
            if any(ctx.needs_input_grad[1 + i] for i in members):
                if ctx.captured:  # of a head of weight 0, whose weights may be NaN, nothing goes on
                    on = (own != 0).flatten(1).any(1)
                    w = torch.where(on[:, None, None], w, 0.0)
                for i, one in zip(members, (own @ w).unbind(), strict=True):
                    found[i] = one
            if any(ctx.needs_input_grad[1 + count + i] for i in members):
                of_weights = (own.mT @ x).to(saved[count + a].dtype)
                for i, one in zip(members, of_weights.unbind(), strict=True):
                    found[count + i] = one
        return (None, *found)


def _groups(weights: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Beginnings and ends of runs of weights to be taken as one."""
    begins = [
        i
        for i, weight in enumerate(weights)
        if not i or weight.shape != weights[i - 1].shape or weight.numel() > _SMALL
    ]
    return list(zip(begins, [*begins[1:], len(weights)], strict=True))


def _stacked(tensors: Sequence[Tensor], dtype: torch.dtype | None) -> Tensor:
    stack = tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))
    return stack if dtype is None else stack.to(dtype)
