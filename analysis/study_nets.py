"""Parts of the networks that the studies train."""

from __future__ import annotations

import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn


class _Rectangle(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (x.abs() < 0.5)


class Rectangle(nn.Module):
    """Derivative 1 within 0.5 of the threshold; SpikingJelly 0.0.0.0.14 has none like it."""

    def forward(self, x: Tensor) -> Tensor:
        return _Rectangle.apply(x)


SHAPES = {"atan": surrogate.ATan, "sigmoid": surrogate.Sigmoid, "rect": Rectangle}
