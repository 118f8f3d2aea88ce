"""Keep what a head of weight 0 holds from the layers below it, in code that is recorded.

Where Python runs, a head of weight 0 is left out of the loss, and no gradient goes through it. In
compiled code and captured graphs it stays in, with a gradient of 0, which times a NaN in the head
would be a NaN in the network. So a head whose logits get no gradient but zeros hands on zeros.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["above", "below"]


def below(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Features on their way into a head, and the key that :func:`above` needs.

    Args:
        x: Features of any shape.

    Returns:
        The features, and the key; ``None`` where they want no gradient.
    """
    if not x.requires_grad:
        return x, None
    found: tuple[Tensor, Tensor] = _Below.apply(x)
    return found


def above(logits: Tensor, key: Tensor | None) -> Tensor:
    """Logits of a head: if their gradient is 0, so is that of the features.

    Args:
        logits: Of any shape.
        key: What :func:`below` gave for the features.
    """
    if key is None:
        return logits
    found: Tensor = _Above.apply(logits, key)
    return found


class _Below(torch.autograd.Function):
    """The gradient of the second output says whether to let that of the first through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.detach(), x.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad, key = grads
        return torch.where(key != 0, grad, 0.0)


class _Above(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, key: Tensor) -> Tensor:
        ctx.dtype = key.dtype
        return logits.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        return grad, (grad != 0).any().to(ctx.dtype)
