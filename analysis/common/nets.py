"""Parts of the networks that the studies train."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import sew_resnet, spiking_resnet
from torch import Tensor, nn

__all__ = ["SHAPES", "build", "lif"]


class _Rectangle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x: Tensor
        (x,) = ctx.saved_tensors
        return grad * (x.abs() < 0.5)


class Rectangle(nn.Module):
    """Derivative 1 within 0.5 of the threshold; SpikingJelly 0.0.0.0.14 has none like it."""

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = _Rectangle.apply(x)
        return spikes


SHAPES = {"atan": surrogate.ATan, "sigmoid": surrogate.Sigmoid, "rect": Rectangle}

WIDTHS = (16, 32, 64)


def lif(shape: str) -> nn.Module:
    """v = v / 2 + x, spike at 1, then v = 0."""
    node: nn.Module = neuron.LIFNode(
        tau=2.0, decay_input=False, v_threshold=1.0, surrogate_function=SHAPES[shape]()
    )
    return node


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    convolution: nn.Module = layer.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return convolution


def build(net: str, depth: int, shape: str, in_channels: int, scale: float = 1.0) -> nn.Module:
    """A network for small images, in three stages of width and resolution, and a classifier.

    Args:
        net: ``"plain"``: convolution, batch norm and LIF, ``depth`` times; ``"resnet"``: the same
            with basic blocks whose sums go through neurons; ``"sew"``: with those of SEW-ResNet,
            which add spikes; ``"bare"``: plain without batch norm, with weights drawn so that
            layers fire all the same. Residual networks have ``depth`` - 2 convolutions in blocks.
            ``"stages4"``: the ResNet-18 or -34 of the paper's kind, of four stages.
        depth: Layers with weights: one less convolutions, and the classifier; in plain networks
            ``depth`` convolutions, as in ``examples/quickstart.py``.
        shape: Surrogate function, one of ``SHAPES``.
        in_channels: Channels of the input.
        scale: Of the widths.
    """
    widths = [round(width * scale) for width in WIDTHS]
    if net == "stages4":
        from analysis.paper.nets import SpikingResNet  # which is made of what is below

        return SpikingResNet("resnet", depth, widths[0], surrogate=shape)
    if net in ("plain", "bare"):
        body = plain(depth, widths, shape, in_channels, net == "plain")
    else:
        body = residual(net, depth, widths, shape, in_channels)
    top = (layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(widths[-1], 10))
    model = nn.Sequential(*body, *top)
    functional.set_step_mode(model, "m")
    return model


def plain(depth: int, widths: list[int], shape: str, channels: int, norm: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    before = 0
    for i in range(depth):
        stage = i * len(widths) // depth
        stride = 2 if stage > before else 1
        parts = conv_norm_lif if norm else conv_lif
        layers += parts(channels, widths[stage], stride, shape)
        channels, before = widths[stage], stage
    return layers


def residual(net: str, depth: int, widths: list[int], shape: str, channels: int) -> list[nn.Module]:
    block = {"resnet": spiking_resnet.BasicBlock, "sew": sew_resnet.BasicBlock}[net]
    options = {"cnf": "ADD"} if net == "sew" else {}
    layers = conv_norm_lif(channels, widths[0], 1, shape)
    channels = widths[0]
    for stage, width in enumerate(widths):
        for i in range((depth - 2) // (2 * len(widths))):
            stride = 2 if stage and not i else 1
            beside = None
            if stride > 1:
                beside = nn.Sequential(
                    layer.Conv2d(channels, width, 1, stride, bias=False), layer.BatchNorm2d(width)
                )
            layers.append(
                block(channels, width, stride, beside, spiking_neuron=lif, shape=shape, **options)
            )
            channels = width
    return layers


def conv_norm_lif(inputs: int, outputs: int, stride: int, shape: str) -> list[nn.Module]:
    return [conv3x3(inputs, outputs, stride), layer.BatchNorm2d(outputs), lif(shape)]


def conv_lif(inputs: int, outputs: int, stride: int, shape: str) -> list[nn.Module]:
    """Without batch norm currents have a variance of 1 where 15 % of the neurons before fire."""
    convolution = layer.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    nn.init.normal_(convolution.weight, std=(0.15 * 9 * inputs) ** -0.5)
    return [convolution, lif(shape)]
