"""Random spiking networks: each a plan that can be built of modules, and computed by hand.

The computation by hand takes sequences [T, N, ...] throughout, knows nothing of modules, hooks or
step modes but the one thing in which these differ (batch norm takes its statistics of all time
steps at once, or of each), and notes the output of every place where a head could sit.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from spikingjelly.activation_based import layer
from torch import Tensor, nn

from tests.nets.random_neurons import FAMILIES, SECOND_GENERATION, Spike, Weights


@dataclass(frozen=True)
class Hand:
    """Where the computation by hand stands.

    Attributes:
        weights: Parameters and buffers of the network by dotted name.
        mode: Step mode.
        training: Whether batch norm takes the statistics of the batch.
        outputs: Output of each spiking part by dotted name, filled on the way.
        path: Dotted name of the part that is computed.
    """

    weights: Weights
    mode: str
    training: bool = True
    outputs: dict[str, Tensor] = field(default_factory=dict)
    path: str = ""

    def run(self, part: Any, x: Tensor, *names: str, mode: str | None = None) -> Tensor:
        inner = replace(self, path=".".join(filter(None, (self.path, *names))))
        y = part.by_hand(x, inner if mode is None else replace(inner, mode=mode))
        if part.spiking:
            self.outputs[inner.path] = y
        return y

    @property
    def own(self) -> Weights:
        start = f"{self.path}."
        return {k.removeprefix(start): w for k, w in self.weights.items() if k.startswith(start)}


def module(kind: str, context: str, *args: Any, **kwargs: Any) -> nn.Module:
    """A layer of SpikingJelly's in a step mode; in a container ("plain"), one of PyTorch's."""
    if context == "plain":
        return getattr(nn, kind)(*args, **kwargs)
    return getattr(layer, kind)(*args, step_mode=context, **kwargs)


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


@dataclass(frozen=True)
class Vote(Layer):
    """Averages of groups of outputs."""

    size: int

    def build(self, context: str) -> nn.Module:
        return layer.VotingLayer(self.size, step_mode=context)

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
        axis = 2 if context == "m" else 1
        return Joined(self.body.build(context), skip, spike, self.cat, axis)

    def by_hand(self, x: Tensor, hand: Hand) -> Tensor:
        same = x if self.skip is None else hand.run(self.skip, x, "skip")
        y = hand.run(self.body, x, "body")
        y = torch.cat([y, same], 2) if self.cat else y + same
        return y if self.spike is None else hand.run(self.spike, y, "spike")

    @property
    def _rest(self) -> tuple[Chain | None, Fire | None]:
        return self.skip, self.spike


# -------------------------------------------------------------------------------------------- plans


@dataclass(frozen=True)
class Plan:
    """A network and its input.

    Attributes:
        net: Its parts.
        mode: Step mode.
        T: Time steps.
        N: Batch size.
        shape: Shape of one sample at one time step.
        classes: Width of its logits.
    """

    net: Chain
    mode: str
    T: int
    N: int
    shape: tuple[int, ...]
    classes: int

    def model(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The same weights for the same seed, in either step mode."""
        torch.manual_seed(seed)
        np.random.seed(seed)  # from which SpikingJelly's GatedLIFNode draws its weights
        return self.net.build(self.mode).to(dtype)

    def sequence(self, seed: int = 1, dtype: torch.dtype = torch.float64, more: int = 0) -> Tensor:
        """Input [T, N, ...], strong enough for deep layers to spike; N may be larger."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.rand(self.T, self.N + more, *self.shape, generator=generator, dtype=torch.float64)
        return (3 * x - 0.5).to(dtype)

    def target(self, more: int = 0) -> Tensor:
        return torch.arange(self.N + more) % self.classes

    def outputs(self, model: nn.Module, x: Tensor) -> Tensor:
        """Logits [T, N, K]."""
        return model(x) if self.mode == "m" else torch.stack([model(step) for step in x])

    def example(self, x: Tensor) -> Tensor:
        """Input of one forward pass."""
        return x if self.mode == "m" else x[0]

    def by_hand(
        self, weights: Weights, x: Tensor, training: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits [T, N, K], and the output of each spiking part by dotted name."""
        hand = Hand(weights, self.mode, training)
        logits = self.net.by_hand(x, hand)
        return logits, hand.outputs

    def parts(self) -> Iterator[Any]:
        queue: list[Any] = [self.net]
        while queue:
            part = queue.pop()
            yield part
            queue += getattr(part, "parts", ())
            queue += [p for p in vars(part).values() if isinstance(p, Chain | Fire)]


class _Draws:
    """Draws a network part by part, and knows the shape reached.

    Attributes:
        mode: Step mode.
        dims: Dimensions of space.
        channels: Channels reached.
        sizes: Sizes of space reached.
    """

    def __init__(self, draw: st.DrawFn, modes: str, dims: int, both: bool, cat: bool) -> None:
        self.draw = draw
        self.mode = draw(st.sampled_from(modes))
        self.T = draw(st.integers(1, 3))
        self.N = draw(st.integers(1, 3))
        self.dims = dims
        self.channels = draw(st.integers(1, 3))
        self.sizes = tuple(draw(st.integers(2, 6 if dims < 3 else 3)) for _ in range(dims))
        self.both = both
        self.cat = cat

    def one_of(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def spike(self, *, stepwise: bool = False) -> Fire:
        mode = "s" if stepwise else self.mode
        names = [
            name
            for name, family in FAMILIES.items()
            if (family.modes == "ms" if self.both else mode in family.modes)
            and (self.dims == 2 or not family.planes)
        ]
        family = self.one_of(*names)
        resets = (0.0, -0.1) if FAMILIES[family].hard else (0.0, None, -0.1)
        return Fire(
            family,
            threshold=self.one_of(0.1, 0.05, 0.3),
            v_reset=self.one_of(*resets),
            detach_reset=self.one_of(True, False),
            tau=self.one_of(2.0, 1.3),
            T=self.T,
            channels=self.channels,
            recurrent=FAMILIES[family].loops and not stepwise and self.one_of(False, False, True),
        )

    def weigh(self, *, like: bool = False) -> Weigh:
        """A layer with weights; with `like` one that keeps the shape."""
        outputs = self.channels if like else self.one_of(3, 1, 2, 4)
        kernel = self.one_of(3, 1) if self.dims else 1
        stride = self.one_of(1, 1, 2) if self.dims and not like else 1
        made = Weigh(self.channels, outputs, self.dims, kernel, stride, self.one_of(True, False))
        self.channels = outputs
        self.sizes = tuple((size - 1) // stride + 1 for size in self.sizes)
        return made

    def norm(self, *, stepwise: bool = False) -> list[Norm]:
        steps = 1 if stepwise or self.mode == "s" or self.both else self.T
        enough = steps * self.N * prod(self.sizes) > 1  # PyTorch refuses one value a channel
        kinds = ["layer"] + ["group"] * enough
        if enough and (
            self.sizes or SECOND_GENERATION or (self.mode == "s" and not self.both) or stepwise
        ):
            kinds += ["batch", "batch"]  # 0.0.0.0.14 refuses features [T, N, C]
        if not self.one_of(True, True, False):
            return []
        return [Norm(self.one_of(*kinds), self.channels, self.sizes)]

    def pool(self) -> list[Pool]:
        if not self.dims or min(self.sizes) < 2 or self.one_of(True, True, False):
            return []
        self.sizes = tuple(size // 2 for size in self.sizes)
        return [Pool(self.one_of("Max", *["Avg"] * (self.dims < 3)), self.dims)]

    def layers(self, *, like: bool = False, stepwise: bool = False) -> list[Any]:
        """Weights, norm and neurons, in an order of residual nets of either kind."""
        weights = [self.weigh(like=like), *self.norm(stepwise=stepwise)]
        return [*weights, self.spike(stepwise=stepwise)]

    def stage(self, depth: int) -> list[Any]:
        """Some parts that belong together."""
        kinds = ["layers", "layers", "residual", "either"]
        kinds += ["sequential", "list"] if depth else []
        kinds += ["fold", "loop"] if self.mode == "m" and not self.both else []
        kind = self.one_of(*kinds)
        if kind == "layers":
            return [*self.layers(), *self.pool()]
        if kind == "residual":
            return [self.residual()]
        if kind == "fold":
            return [Chain((self.weigh(), *self.norm(), *self.pool()), "fold"), self.spike()]
        if kind in ("loop", "either"):
            return [Chain((*self.layers(stepwise=True), *self.pool()), kind)]
        inner = [part for _ in range(self.one_of(1, 2)) for part in self.stage(depth - 1)]
        return [Chain(tuple(inner), kind)]

    def residual(self) -> Residual:
        inputs, sizes = self.channels, self.sizes
        like = self.one_of(True, False)
        body = [*([self.spike()] if self.one_of(False, True) else []), self.weigh(like=like)]
        body += [*self.norm(), self.spike()]
        if self.one_of(False, True):
            body += [self.weigh(like=True), *self.norm()]
        skip = None
        if self.channels != inputs or self.sizes != sizes:
            stride = next((w.stride for w in body if isinstance(w, Weigh)), 1)
            projection = Weigh(inputs, self.channels, self.dims, 1, stride, bias=False)
            skip = Chain((projection, *self.norm()))
        cat = self.cat and self.one_of(False, True)
        self.channels *= 2 if cat else 1
        spike = self.spike() if self.one_of(True, False) else None
        return Residual(Chain(tuple(body), self.one_of("sequential", "list")), skip, spike, cat)

    def readout(self, classes: int) -> list[Any]:
        """The classifier."""
        votes = self.one_of(1, 1, 2)
        parts: list[Any] = []
        if self.dims and self.one_of(True, False):
            parts.append(Squeeze(self.dims))
            self.sizes = (1,) * self.dims
        if self.dims:
            parts.append(Flatten())
        inputs, self.sizes, self.dims = self.channels * prod(self.sizes), (), 0
        parts.append(Weigh(inputs, classes * votes, 0))
        self.channels = classes * votes
        if self.one_of(False, False, True):
            parts.append(self.spike())
        if votes > 1:
            return [*parts, Vote(votes)]
        if self.mode == "m" and not self.both and parts[-1].spiking is False:
            return [Chain(tuple(parts), self.one_of("sequential", "fold"))]
        return self.one_of(parts, [Chain(tuple(parts))])


@st.composite
def plans(
    draw: st.DrawFn, modes: str = "ms", both: bool = False, cat: bool = False, stages: int = 4
) -> Plan:
    """Plans of networks.

    Args:
        draw: Given by hypothesis.
        modes: Step modes to choose from.
        both: Whether it has to run in both.
        cat: Whether blocks may put their parts side by side, as in DenseNets.
        stages: The most stages.
    """
    draws = _Draws(draw, modes, draw(st.sampled_from([0, 2, 1, 3])), both, cat)
    shape = (draws.channels, *draws.sizes)
    classes = draw(st.integers(2, 4))
    body = [part for _ in range(draw(st.integers(1, stages))) for part in draws.stage(depth=2)]
    parts = (*body, *draws.readout(classes))
    kind = draw(st.sampled_from(["sequential", "list"]))
    return Plan(Chain(parts, kind), draws.mode, draws.T, draws.N, shape, classes)
