"""The models that --model names, made of SpikingJelly's layers."""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import (
    parametric_lif_net,
    sew_resnet,
    spiking_resnet,
    spiking_vgg,
)
from torch import Tensor, nn

from .errors import UserError, one_line

__all__ = ["CifarResNet", "build", "neuron_settings", "plain_net"]

Norm = Callable[..., nn.Module]
Neuron = Callable[[], nn.Module]

# Blocks of each stage, and channels of the first one. Stages double the channels and halve the
# resolution. The paper trains ResNet-18, -19 and -34, and does not say how they are made for small
# images: here as in code that its authors released with other papers.
RESNETS = {
    "resnet18": ((2, 2, 2, 2), 64, False),
    "resnet34": ((3, 4, 6, 3), 64, False),
    "resnet19": ((3, 3, 2), 128, False),
    "resnet20": ((2, 2, 2, 2), 64, True),
}
PLIF_NETS = {
    "plif_mnist": parametric_lif_net.MNISTNet,
    "plif_fashionmnist": parametric_lif_net.FashionMNISTNet,
    "plif_nmnist": parametric_lif_net.NMNISTNet,
    "plif_cifar10": parametric_lif_net.CIFAR10Net,
    "plif_cifar10dvs": parametric_lif_net.CIFAR10DVSNet,
    "plif_dvsgesture": parametric_lif_net.DVSGestureNet,
}
SPIKINGJELLY_NETS = {
    name: getattr(module, name)
    for module, start in (
        (spiking_resnet, "spiking_"),
        (sew_resnet, "sew_"),
        (spiking_vgg, "spiking_"),
    )
    for name in module.__all__
    if name.startswith(start)
}


def build(args: argparse.Namespace, num_classes: int, in_channels: int) -> nn.Module:
    """The model that --model and its flags ask for, in the step mode asked for."""
    settings = neuron_settings(args)
    if args.model.startswith("plain:"):
        depth = args.model.removeprefix("plain:")
        if not depth.isdecimal() or int(depth) < 4:
            raise UserError(f"--model {args.model}: give a depth of at least 4, as in plain:18")
        lif = partial(neuron.LIFNode, **settings)
        norm = norm_of(args)
        model: nn.Module = plain_net(
            int(depth), args.width or 32, num_classes, in_channels, norm, lif
        )
    elif args.model in RESNETS:
        lif = partial(neuron.LIFNode, **settings)
        blocks, width, deep_stem = RESNETS[args.model]
        model = CifarResNet(
            blocks, args.width or width, deep_stem, num_classes, in_channels, norm_of(args), lif
        )
    elif args.model in PLIF_NETS:
        settings["init_tau"] = settings.pop("tau")
        model = PLIF_NETS[args.model](spiking_neuron=neuron.ParametricLIFNode, **settings)
    elif args.model in SPIKINGJELLY_NETS:
        if args.model.startswith("sew_"):
            settings["cnf"] = "ADD"
        factory = SPIKINGJELLY_NETS[args.model]
        model = factory(spiking_neuron=neuron.LIFNode, num_classes=num_classes, **settings)
        set_in_channels(model, in_channels)
    elif ":" in args.model:
        model = from_factory(args.model, num_classes, in_channels)
    else:
        known = ["plain:18", *RESNETS, *PLIF_NETS, *SPIKINGJELLY_NETS]
        near = difflib.get_close_matches(args.model, known, n=3) or known[:4]
        raise UserError(
            f"--model {args.model} is unknown: did you mean {', '.join(near)}? A model of your own "
            "is package.module:factory"
        )
    functional.set_step_mode(model, args.step_mode)
    return model


def neuron_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The paper's LIF: v = decay * v + x, spike at the threshold, then v = 0.

    Its values (Eqs. 1 to 3) are a decay of 0.5 and a threshold of 1. The defaults are ours.
    """
    shape = Rectangle() if args.surrogate == "rectangle" else surrogate.PiecewiseQuadratic(1.0)
    return {
        "tau": 1 / (1 - args.decay),
        "decay_input": False,
        "v_threshold": args.threshold,
        "v_reset": 0.0,
        "surrogate_function": shape,
    }


def norm_of(args: argparse.Namespace) -> Norm:
    """Batch norm; tdbn scales it to the threshold of the neurons behind it at first.

    That is all there is to threshold-dependent batch norm (Zheng et al., AAAI 2021) in step mode
    'm', where a batch norm sees all time steps. SpikingJelly's layer for it is the same in 2.0.0,
    and takes no input at all in 0.0.0.0.14.
    """

    def norm(channels: int, alpha: float = 1.0) -> nn.Module:
        made: nn.BatchNorm2d = layer.BatchNorm2d(channels)
        if args.norm == "tdbn":
            nn.init.constant_(made.weight, alpha * args.threshold)
        return made

    return norm


class _Rectangle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        within: Tensor = x.abs() <= 0.5
        return grad * within


class RectangleSurrogate(nn.Module):
    """Derivative 1 within 0.5 of the threshold. 0.0.0.0.14 has no such surrogate function."""

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = _Rectangle.apply(x)
        return spikes


# Where SpikingJelly has one of its own, its kernels for GPUs know it.
Rectangle = getattr(surrogate, "Rect", RectangleSurrogate)


def plain_net(
    depth: int, width: int, num_classes: int, in_channels: int, norm: Norm, lif: Neuron
) -> nn.Sequential:
    """Layers one after another, without residual connections: three stages and a classifier."""
    layers: list[nn.Module] = []
    channels = in_channels
    for stage in range(3):
        convolutions = (depth - 1 + 2 - stage) // 3
        for i in range(convolutions):
            stride = 2 if stage > 0 and i == 0 else 1
            out = width * 2**stage
            layers += [conv3x3(channels, out, stride), norm(out), lif()]
            channels = out
    return nn.Sequential(
        *layers,
        layer.AdaptiveAvgPool2d(1),
        layer.Flatten(),
        layer.Linear(channels, num_classes),
    )


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
    convolution: nn.Module = layer.Conv2d(
        in_channels, out_channels, 3, stride, padding=1, bias=False
    )
    return convolution


class Block(nn.Module):
    """Residual block whose sum goes through neurons, as in SpikingJelly's SpikingResNet."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, pool: bool, norm: Norm, lif: Neuron
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = norm(out_channels)
        self.sn1 = lif()
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = norm(out_channels, math.sqrt(0.5))  # two of these meet at one threshold
        self.downsample = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            pooling = [layer.AvgPool2d(stride)] if pool and stride > 1 else []
            self.downsample = nn.Sequential(
                *pooling,
                layer.Conv2d(in_channels, out_channels, 1, 1 if pooling else stride, bias=False),
                norm(out_channels, math.sqrt(0.5)),
            )
        self.sn2 = lif()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.sn1(self.bn1(self.conv1(x)))
        out = self.sn2(self.bn2(self.conv2(out)) + self.downsample(x))
        return out


class CifarResNet(nn.Module):
    """Residual network for small images; ``deep_stem`` begins with three layers and pooling."""

    def __init__(
        self,
        blocks: tuple[int, ...],
        width: int,
        deep_stem: bool,
        num_classes: int,
        in_channels: int,
        norm: Norm,
        lif: Neuron,
    ) -> None:
        super().__init__()
        stem: list[nn.Module] = []
        channels = in_channels
        for _ in range(3 if deep_stem else 1):
            stem += [conv3x3(channels, width), norm(width), lif()]
            channels = width
        self.stem = nn.Sequential(*stem, *([layer.AvgPool2d(2)] if deep_stem else []))
        self.stages = nn.Sequential()
        for stage, number in enumerate(blocks):
            out = width * 2**stage
            first = Block(channels, out, 2 if stage else 1, deep_stem, norm, lif)
            rest = [Block(out, out, 1, deep_stem, norm, lif) for _ in range(number - 1)]
            self.stages.append(nn.Sequential(first, *rest))
            channels = out
        self.pool = layer.AdaptiveAvgPool2d(1)
        self.flatten = layer.Flatten()
        self.fc = layer.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.flatten(self.pool(self.stages(self.stem(x)))))
        return logits


def set_in_channels(model: nn.Module, channels: int) -> None:
    """Replace the first convolution if it was made for another number of channels."""
    path, conv = next((p, m) for p, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if conv.in_channels != channels:
        parent, _, name = path.rpartition(".")
        new = layer.Conv2d(
            channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
            bias=conv.bias is not None,
        )  # fmt: skip
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
        setattr(model.get_submodule(parent), name, new)


def from_factory(path: str, num_classes: int, in_channels: int) -> nn.Module:
    """Call a function of the user's, found from the folder the script is started in."""
    sys.path.insert(0, os.getcwd())
    module_name, _, name = path.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"--model {path}: {one_line(error)}") from error
    finally:
        sys.path.remove(os.getcwd())
    offered = {"num_classes": num_classes, "in_channels": in_channels}
    taken = inspect.signature(factory).parameters
    try:
        model = factory(**{key: value for key, value in offered.items() if key in taken})
    except Exception as error:  # anything that code of the user's may raise
        raise UserError(
            f"--model {path} failed ({type(error).__name__}: {one_line(error)}): mend it; --debug "
            "shows where"
        ) from error
    if not isinstance(model, nn.Module):
        raise UserError(f"--model {path} returned {type(model).__name__}, not a torch.nn.Module")
    return model
