"""Several linear layers as few products, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sj_shortcut.torch_model import is_captured

__all__ = ["Linears"]

# Weights up to this size are copied side by side; of larger ones the copy costs more than a launch.
_SMALL = 1 << 13


class Linears(torch.autograd.Function):
    """Linear layers for as many features, those of one width side by side as one product.

    ``Linears.apply(dtype, *features, *weights, *biases)`` gives a tensor ``[N, K]`` for each of the
    features ``[N, F]``; ``dtype`` is what autocast has products computed in, or ``None``.
    """

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Logits of each head, views of one tensor."""
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
        """Gradients of features, weights and biases of the heads that are in a loss."""
        count = len(grads)
        saved, groups, needed = ctx.saved_tensors, ctx.groups, ctx.needs_input_grad
        stacks = saved[3 * count :]
        found: list[Tensor | None] = [None] * (3 * count)
        # A head that is in no loss gets no gradient rather than zeros: these would become NaN where
        # its weights are, and optimizers would take them for a reason to decay its weights.
        used = [i for i, grad in enumerate(grads) if grad is not None]
        if not used:
            return (None, *found)
        grad = torch.stack([grad for grad in grads if grad is not None])
        if any(needed[1 + 2 * count :]):
            for i, one in zip(used, grad.sum(1).unbind(), strict=True):
                found[2 * count + i] = one
        begin = 0
        for number, (a, b) in enumerate(groups):
            members = [i for i in used if a <= i < b]
            if not members:
                continue
            size = len(members)
            own = grad[begin : begin + size]
            begin += size
            x, w = stacks[number], stacks[len(groups) + number]
            if size < b - a or torch.is_grad_enabled():  # differentiable once more
                x = _stacked([saved[i] for i in members], ctx.dtype)
                w = _stacked([saved[count + i] for i in members], ctx.dtype)
            if any(needed[1 + a : 1 + b]):
                if ctx.captured:  # of a head of weight 0, whose weights may be NaN, nothing goes on
                    on = (own != 0).flatten(1).any(1)
                    w = torch.where(on[:, None, None], w, 0.0)
                for i, one in zip(members, (own @ w).unbind(), strict=True):
                    found[i] = one
            if any(needed[1 + count + a : 1 + count + b]):
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
