"""Random spiking networks: each a plan that can be built of modules, and computed by hand.

The computation by hand takes sequences [T, N, ...] throughout, knows nothing of modules, hooks or
step modes but the one thing in which these differ (batch norm takes its statistics of all time
steps at once, or of each), and notes the output of every place where a head could sit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.nets.random_blocks import (
    Beside,
    Droppable,
    InTuple,
    Style,
    Tokens,
    parts_inside,
    set_dropped,
)
from tests.nets.random_neurons import CHARGES, FAMILIES, OWN, SECOND_GENERATION, Weights
from tests.nets.random_parts import (
    Chain,
    Fire,
    Flatten,
    Hand,
    Norm,
    Pool,
    Residual,
    Squeeze,
    Vote,
    Weigh,
)

__all__ = ["Chain", "Fire", "Norm", "Plan", "Residual", "Weigh", "plans"]


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
        style: How it has its time.
    """

    net: Chain
    mode: str
    T: int
    N: int
    shape: tuple[int, ...]
    classes: int
    style: Style = Style()

    def model(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The same weights for the same seed, in either step mode."""
        torch.manual_seed(seed)
        np.random.seed(seed)  # from which SpikingJelly's GatedLIFNode draws its weights
        return self.style.around(self.net.build(self.style.context(self.mode))).to(dtype)

    def sequence(self, seed: int = 1, dtype: torch.dtype = torch.float64, more: int = 0) -> Tensor:
        """Input [T, N, ...], strong enough for deep layers to spike; N may be larger."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.rand(self.T, self.N + more, *self.shape, generator=generator, dtype=torch.float64)
        return (3 * x - 0.5).to(dtype)

    def target(self, more: int = 0) -> Tensor:
        return torch.arange(self.N + more) % self.classes

    def outputs(self, model: nn.Module, x: Tensor) -> Tensor:
        """Logits [T, N, K]; some inputs leave out blocks that may be."""
        set_dropped(model, self.drops(x))
        try:
            if self.style.name == "outside" and self.mode == "s":
                return torch.stack([model(step) for step in x])
            return self.style.by_time(model(self.style.as_taken(x)))
        finally:
            set_dropped(model, False)

    def drops(self, x: Tensor) -> bool:
        """Whether an input leaves out blocks: half of them do."""
        return bool(x.flatten()[0] > 1)

    def example(self, x: Tensor) -> Tensor:
        """Input of one forward pass."""
        if self.style.name == "outside":
            return x if self.mode == "m" else x[0]
        return self.style.as_taken(x)

    def by_hand(
        self, weights: Weights, x: Tensor, training: bool = True, drops: bool | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits [T, N, K], and the output of each spiking part by dotted name."""
        hand = self._run(weights, x, training, self.drops(x) if drops is None else drops)
        return hand.logits, hand.outputs

    @property
    def needs_example(self) -> bool:
        """Whether a made-up batch cannot show it: it takes one number of time steps only."""
        return self.style.name == "folded"

    def beside(self) -> set[str]:
        """Names of the places that the output does not depend on."""
        model = self.model()
        named = [*model.named_parameters(), *model.named_buffers()]
        return set(self._run(dict(named), self.sequence(), True, False).beside)

    def _run(self, weights: Weights, x: Tensor, training: bool, drops: bool) -> Hand:
        hand = Hand(weights, self.mode, training, drops=drops)
        if self.style.name == "outside":
            logits = self.net.by_hand(x, hand)
        else:
            logits = hand.run(self.net, x, "net")
        return replace(hand, logits=logits)

    def parts(self) -> Iterator[Any]:
        queue: list[Any] = [self.net]
        while queue:
            part = queue.pop()
            yield part
            queue += parts_inside(part)


class _Draws:
    """Draws a network part by part, and knows the shape reached.

    Attributes:
        mode: Step mode.
        dims: Dimensions of space.
        channels: Channels reached.
        sizes: Sizes of space reached.
        style: How the network has its time.
    """

    def __init__(self, draw: st.DrawFn, modes: str, dims: int, both: bool, cat: bool) -> None:
        self.draw = draw
        self.style = Style() if both or modes != "ms" else draw(styles)
        self.mode = {"outside": draw(st.sampled_from(modes)), "inside": "s"}.get(
            self.style.name, "m"
        )
        # Own neurons do not show where a single time step is, nor a network where one sample is.
        self.T = draw(st.integers(2 if self.style.name in OWN else 1, 3))
        self.N = draw(st.integers(1 if self.style.name == "outside" else 2, 3))
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
        own = self.style.name in OWN or (not self.both and self.one_of(False, False, False, True))
        names = list(CHARGES) if own else names
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
            recurrent=not own
            and FAMILIES[family].loops
            and not stepwise
            and self.one_of(False, False, True),
            own=own,
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
        whole = self.channels * prod(self.sizes) > 2  # of one or two values little is left
        kinds = ["layer"] * whole + ["group"] * (enough and whole)
        if enough and (
            self.sizes or SECOND_GENERATION or (self.mode == "s" and not self.both) or stepwise
        ):
            kinds += ["batch", "batch"]  # 0.0.0.0.14 refuses features [T, N, C]
        if not kinds or not self.one_of(True, True, False):
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
        kinds = ["layers", "layers", "residual"]
        kinds += ["sequential", "list", "tuple"] if depth else []
        kinds += ["side", "droppable"] if depth and not self.both else []
        kinds += ["tokens"] if self.dims else []
        kinds += ["either"] if self.style.name not in OWN else []
        outside = self.style.name == "outside" and not self.both
        kinds += ["fold", "loop"] if self.mode == "m" and outside else []
        kind = self.one_of(*kinds)
        if kind == "layers":
            return [*self.layers(), *self.pool()]
        if kind == "residual":
            return [self.residual()]
        if kind == "fold":
            return [Chain((self.weigh(), *self.norm(), *self.pool()), "fold"), self.spike()]
        if kind in ("loop", "either"):
            return [Chain((*self.layers(stepwise=True), *self.pool()), kind)]
        if kind == "tokens":
            return [self.tokens()]
        if kind == "side":
            return [self.with_side(depth)]
        if kind == "droppable":
            return [Droppable(Chain((*self.layers(like=True),)))]
        inner = [part for _ in range(self.one_of(1, 2)) for part in self.stage(depth - 1)]
        if kind == "tuple":
            return [InTuple(Chain(tuple(inner)), self.one_of(True, False))]
        return [Chain(tuple(inner), kind)]

    def tokens(self) -> Tokens:
        """Neurons of channels that come last."""
        inputs, self.channels = self.channels, self.one_of(3, 4)
        # Those that know their channels have them on the axis of convolutions.
        dims, self.dims = self.dims, 1
        made = Tokens(inputs, self.channels, dims, self.one_of(True, False), self.spike())
        self.dims = dims
        return made

    def with_side(self, depth: int) -> Beside:
        channels, sizes = self.channels, self.sizes
        side = Chain(tuple(self.layers()))
        self.channels, self.sizes = channels, sizes
        return Beside(Chain(tuple(self.stage(depth - 1))), side, self.one_of(True, False))

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
        outside = self.style.name == "outside" and not self.both
        if self.mode == "m" and outside and parts[-1].spiking is False:
            return [Chain(tuple(parts), self.one_of("sequential", "fold"))]
        return self.one_of(parts, [Chain(tuple(parts))])


styles = st.one_of(
    st.just(Style()),
    st.builds(Style, st.just("inside"), st.booleans(), st.sampled_from(["for", "while", "list"])),
    st.builds(Style, st.sampled_from(OWN)),
)


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
    return Plan(Chain(parts, kind), draws.mode, draws.T, draws.N, shape, classes, draws.style)
