"""The parts of random spiking networks, each built of modules, and computed by hand.

The computation by hand takes sequences [T, N, ...] throughout, knows nothing of modules, hooks or
step modes but the one thing in which these differ (batch norm takes its statistics of all time
steps at once, or of each), and notes the output of every place where a head could sit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import layer
from torch import Tensor, nn

from tests.nets.random_neurons import OWN, Spike, Weights


@dataclass(frozen=True)
class Hand:
    """Where the computation by hand stands.

    Attributes:
        weights: Parameters and buffers of the network by dotted name.
        mode: Step mode.
        training: Whether batch norm takes the statistics of the batch.
        outputs: Output of each spiking part by dotted name, filled on the way.
        path: Dotted name of the part that is computed.
        drops: Whether blocks that may be left out are.
        beside: Like `outputs`, of what the network's output does not depend on.
        logits: What it came to.
    """

    weights: Weights
    mode: str
    training: bool = True
    outputs: dict[str, Tensor] = field(default_factory=dict)
    path: str = ""
    drops: bool = False
    beside: dict[str, Tensor] = field(default_factory=dict)
    logits: Any = None

    def run(self, part: Any, x: Tensor, *names: str, mode: str | None = None) -> Tensor:
        inner = replace(self, path=".".join(filter(None, (self.path, *names))))
        y = part.by_hand(x, inner if mode is None else replace(inner, mode=mode))
        if part.spiking:
            self.outputs[inner.path] = y
        return y

    def note(self, y: Tensor, *names: str) -> None:
        """Another place that gives the same."""
        self.outputs[".".join(filter(None, (self.path, *names)))] = y

    @property
    def own(self) -> Weights:
        start = f"{self.path}."
        return {k.removeprefix(start): w for k, w in self.weights.items() if k.startswith(start)}


def module(kind: str, context: str, *args: Any, **kwargs: Any) -> nn.Module:
    """A layer that takes features as the context has them.

    Args:
        kind: Name of its class.
        context: A step mode, for layers of SpikingJelly's; or, for PyTorch's, "plain" in a
            container that calls them; "batch" where features are [N, T, ...]; "folded" where time
            is folded into the batch.
        args: Of the class.
        kwargs: Likewise.
    """
    if context in ("plain", "folded"):
        return getattr(nn, kind)(*args, **kwargs)
    if context == "batch":
        return globals()[f"BatchFirst{kind}"](*args, **kwargs)
    return getattr(layer, kind)(*args, step_mode=context, **kwargs)


class BatchFirst:
    """A layer of PyTorch's that folds the two first axes of what it takes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])  # type: ignore[misc]


_WITH_SPACE = ("Conv", "BatchNorm", "MaxPool", "AvgPool", "AdaptiveAvgPool")
_NAMES = ["Linear", "GroupNorm", "Flatten", *(f"{k}{d}d" for k in _WITH_SPACE for d in (1, 2, 3))]
for _name in _NAMES:
    # By name, so that pickle finds them.
    globals()[f"BatchFirst{_name}"] = type(
        f"BatchFirst{_name}", (BatchFirst, getattr(nn, _name)), {"__module__": __name__}
    )


def each_step(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of [N, ...] to [T, N, ...]."""
    return function(x.flatten(0, 1)).unflatten(0, x.shape[:2])


# ------------------------------------------------------------------------------------------- parts


class Layer:
    """A part without neurons."""

    spiking = False


@dataclass(frozen=True)
class Weigh(Layer):
    """A linear layer, or a convolution of one to three dimensions."""

    inputs: int
    outputs: int
    dims: int
    kernel: int = 1
    stride: int = 1
    bias: bool = True

    def build(self, context: str) -> nn.Module:
        if not self.dims:
            return module("Linear", context, self.inputs, self.outputs, bias=self.bias)
        return module(
            f"Conv{self.dims}d", context, self.inputs, self.outputs, self.kernel,
            stride=self.stride, padding=self.kernel // 2, bias=self.bias,
        )  # fmt: skip

    def by_hand(self, x: Tensor, hand: Hand) -> Tensor:
        weight, bias = hand.own["weight"], hand.own.get("bias")
        if not self.dims:
            return F.linear(x, weight, bias)
        convolve = getattr(F, f"conv{self.dims}d")
        return each_step(lambda x: convolve(x, weight, bias, self.stride, self.kernel // 2), x)


@dataclass(frozen=True)
class Norm(Layer):
    """Batch, group or layer norm."""

    kind: str
    channels: int
    sizes: tuple[int, ...]

    def build(self, context: str) -> nn.Module:
        made = self._build(context)
        # A constant input is normed to 0 but for rounding, where some neurons have a kink.
        nn.init.constant_(made.bias, 0.03)
        return made

    def _build(self, context: str) -> nn.Module:
        if self.kind == "batch":
            return module(f"BatchNorm{max(1, len(self.sizes))}d", context, self.channels)
        if self.kind == "group":
            return module("GroupNorm", context, 1, self.channels)
        return nn.LayerNorm((self.channels, *self.sizes))

    def by_hand(self, x: Tensor, hand: Hand) -> Tensor:
        own, wide = hand.own, (-1, *[1] * len(self.sizes))
        if self.kind == "layer":
            return self._normed(x, tuple(range(2, x.ndim))) * own["weight"] + own["bias"]
        if self.kind == "group":
            normed = self._normed(x, tuple(range(2, x.ndim)))
        elif hand.training:
            together = (0, 1) if hand.mode == "m" else (1,)
            normed = self._normed(x, (*together, *range(3, x.ndim)))
        else:
            mean, var = own["running_mean"].reshape(wide), own["running_var"].reshape(wide)
            normed = (x - mean) / (var + 1e-5).sqrt()
        return normed * own["weight"].reshape(wide) + own["bias"].reshape(wide)

    @staticmethod
    def _normed(x: Tensor, dims: tuple[int, ...]) -> Tensor:
        deviation = x - x.mean(dims, keepdim=True)
        return deviation / (deviation.square().mean(dims, keepdim=True) + 1e-5).sqrt()


@dataclass(frozen=True)
class Pool(Layer):
    kind: str
    dims: int

    def build(self, context: str) -> nn.Module:
        return module(f"{self.kind}Pool{self.dims}d", context, 2)

    def by_hand(self, x: Tensor, hand: Hand) -> Tensor:
        pool = getattr(F, f"{self.kind.lower()}_pool{self.dims}d")
        return each_step(lambda x: pool(x, 2), x)


@dataclass(frozen=True)
class Squeeze(Layer):
    """Average over space, as before a classifier."""

    dims: int

    def build(self, context: str) -> nn.Module:
        return module(f"AdaptiveAvgPool{self.dims}d", context, 1)

    def by_hand(self, x: Tensor, hand: Hand) -> Tensor:
        return x.mean(tuple(range(3, x.ndim)), keepdim=True)


@dataclass(frozen=True)
class Flatten(Layer):
    def build(self, context: str) -> nn.Module:
        return module("Flatten", context)

    def by_hand(self, x: Tensor, hand: Hand) -> Tensor:
        return x.flatten(2)


class VoteOfTheLast(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.voting_size = size

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.voting_size)).mean(-1)


@dataclass(frozen=True)
class Vote(Layer):
    """Averages of groups of outputs."""

    size: int

    def build(self, context: str) -> nn.Module:
        return (
            VoteOfTheLast(self.size)
            if context in OWN
            else layer.VotingLayer(self.size, step_mode=context)
        )

    def by_hand(self, x: Tensor, hand: Hand) -> Tensor:
        return x.unflatten(2, (-1, self.size)).mean(3)


@dataclass(frozen=True)
class Fire(Spike):
    """Neurons; their equations are those of `random_neurons`."""

    def by_hand(self, x: Tensor, hand: Hand) -> Tensor:
        spikes = super().by_hand(x, hand.own, hand.mode)
        if self.recurrent:
            hand.outputs[f"{hand.path}.sub_module"] = spikes
        return spikes


class Listed(nn.Module):
    """A chain that a forward goes through by itself."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


@dataclass(frozen=True)
class Chain:
    """Parts one after the other.

    Attributes:
        parts: The parts.
        kind: "sequential"; "list" in a `ModuleList`; "fold" in a `SeqToANNContainer`; "loop" in a
            `MultiStepContainer`; "either" in a `StepModeContainer`, for both step modes.
    """

    parts: tuple[Any, ...]
    kind: str = "sequential"

    @property
    def spiking(self) -> bool:
        return any(part.spiking for part in self.parts)

    def build(self, context: str) -> nn.Module:
        inside = context if self.kind in ("sequential", "list") else "plain"
        built = [part.build(inside) for part in self.parts]
        if self.kind == "list":
            return Listed(built)
        if self.kind == "either":
            container = layer.StepModeContainer(True)
            container.extend(built)  # the constructors of the two generations differ
            container.step_mode = context
            return container
        kinds = {"fold": layer.SeqToANNContainer, "loop": layer.MultiStepContainer}
        return kinds.get(self.kind, nn.Sequential)(*built)

    def by_hand(self, x: Tensor, hand: Hand) -> Tensor:
        prefix = ("parts",) if self.kind == "list" else ()
        mode = "s" if self.kind in ("loop", "either") else None
        for i, part in enumerate(self.parts):
            x = hand.run(part, x, *prefix, str(i), mode=mode)
        return x


class Joined(nn.Module):
    """A residual block."""

    def __init__(
        self, body: nn.Module, skip: nn.Module | None, spike: nn.Module | None, cat: bool, axis: int
    ) -> None:
        super().__init__()
        self.body = body
        self.skip = skip
        self.spike = spike
        self.cat = cat
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        same = x if self.skip is None else self.skip(x)
        y = torch.cat([self.body(x), same], self.axis) if self.cat else self.body(x) + same
        return y if self.spike is None else self.spike(y)


@dataclass(frozen=True)
class Residual:
    """A chain and a way around it, which are added, or put side by side."""

    body: Chain
    skip: Chain | None = None
    spike: Fire | None = None
    cat: bool = False

    spiking = True

    def build(self, context: str) -> nn.Module:
        skip, spike = (None if part is None else part.build(context) for part in self._rest)
        axis = 2 if context in ("m", "batch") else 1
        return Joined(self.body.build(context), skip, spike, self.cat, axis)

    def by_hand(self, x: Tensor, hand: Hand) -> Tensor:
        same = x if self.skip is None else hand.run(self.skip, x, "skip")
        y = hand.run(self.body, x, "body")
        y = torch.cat([y, same], 2) if self.cat else y + same
        return y if self.spike is None else hand.run(self.spike, y, "spike")

    @property
    def _rest(self) -> tuple[Chain | None, Fire | None]:
        return self.skip, self.spike
