"""Blocks and networks in the ways that people write them, each also computed by hand."""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.random_parts import Chain, Fire, Hand


class TokenBlock(nn.Module):
    """Runs on tokens ``[..., L, C]``, and gives back what it was given, ``[..., C, *sizes]``."""

    def __init__(self, inputs: int, outputs: int, dims: int, norm: bool, spike: nn.Module) -> None:
        super().__init__()
        self.dims = dims
        self.linear = nn.Linear(inputs, outputs)
        self.norm = nn.LayerNorm(outputs) if norm else nn.Identity()
        self.spike = spike

    def forward(self, x: Tensor) -> Tensor:
        sizes = x.shape[-self.dims :]
        tokens = x.flatten(-self.dims).transpose(-1, -2)
        tokens = self.spike(self.norm(self.linear(tokens)))
        return tokens.transpose(-1, -2).unflatten(-1, sizes)


@dataclass(frozen=True)
class Tokens:
    """A linear layer, a norm and neurons for the tokens of a map."""

    inputs: int
    outputs: int
    dims: int
    norm: bool
    spike: Fire

    spiking = True

    def build(self, context: str) -> nn.Module:
        spike = self.spike.build(context)
        return TokenBlock(self.inputs, self.outputs, self.dims, self.norm, spike)

    def by_hand(self, x: Tensor, hand: Hand) -> Tensor:
        own, sizes = hand.own, x.shape[3:]
        y = torch.einsum("oc,tncl->tnol", own["linear.weight"], x.flatten(3))
        y = y + own["linear.bias"][:, None]
        if self.norm:
            y = F.layer_norm(y.transpose(2, 3), y.shape[2:3], own["norm.weight"], own["norm.bias"])
            y = y.transpose(2, 3)
        return hand.run(self.spike, y, "spike").unflatten(3, sizes)


class WithExtra(nn.Module):
    """A block that gives a tuple."""

    def __init__(self, body: nn.Module, extra: bool) -> None:
        super().__init__()
        self.body = body
        self.extra = extra

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        y = self.body(x)
        return y, y.mean() if self.extra else None


class FirstOf(nn.Module):
    """Goes on with the first of what a block gives."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        first, _ = self.block(x)
        return first


@dataclass(frozen=True)
class InTuple:
    """A chain whose output comes in a tuple, with something else or nothing beside it."""

    body: Chain
    extra: bool

    spiking = True

    def build(self, context: str) -> nn.Module:
        return FirstOf(WithExtra(self.body.build(context), self.extra))

    def by_hand(self, x: Tensor, hand: Hand) -> Tensor:
        y = hand.run(self.body, x, "block", "body")
        hand.note(y, "block")
        return y


class WithSide(nn.Module):
    """A block with a branch that leads nowhere."""

    def __init__(self, body: nn.Module, side: nn.Module, first: bool) -> None:
        super().__init__()
        self.side = side
        self.body = body
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            self.side(x)
        y = self.body(x)
        if not self.first:
            self.side(x)
        return y


@dataclass(frozen=True)
class Beside:
    """A chain, and another one for its input that the output does not depend on."""

    body: Chain
    side: Chain
    first: bool

    spiking = True

    def build(self, context: str) -> nn.Module:
        return WithSide(self.body.build(context), self.side.build(context), self.first)

    def by_hand(self, x: Tensor, hand: Hand) -> Tensor:
        replace(hand, outputs=hand.beside).run(self.side, x, "side")
        return hand.run(self.body, x, "body")


class LeftOut(nn.Module):
    """A residual block that some forward passes leave out."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.dropped = False

    def forward(self, x: Tensor) -> Tensor:
        return x if self.dropped else x + self.body(x)


@dataclass(frozen=True)
class Droppable:
    """A chain that is left out where the hand drops blocks, as in stochastic depth."""

    body: Chain

    spiking = True

    def build(self, context: str) -> nn.Module:
        return LeftOut(self.body.build(context))

    def by_hand(self, x: Tensor, hand: Hand) -> Tensor:
        return x if hand.drops else x + hand.run(self.body, x, "body")


# ------------------------------------------------------------------ ways of writing a network


class LoopInside(nn.Module):
    """Calls a network for one time step after the other.

    Args:
        net: The network.
        batch_first: Whether it takes [N, T, ...].
        loop: How it loops: "for", "while" or "list".
    """

    def __init__(self, net: nn.Module, batch_first: bool, loop: str) -> None:
        super().__init__()
        self.net = net
        self.batch_first = batch_first
        self.loop = loop

    def forward(self, x: Tensor) -> Tensor:
        frames = x.transpose(0, 1) if self.batch_first else x
        outputs = []
        if self.loop == "for":
            for t in range(len(frames)):
                outputs.append(self.net(frames[t]))
        elif self.loop == "while":
            while len(outputs) < len(frames):
                outputs.append(self.net(frames[len(outputs)]))
        else:
            outputs = [self.net(frame) for frame in frames]
        return torch.stack(outputs)


class Folding(nn.Module):
    """Folds time into the batch before the first layer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Around(nn.Module):
    """A network that is a part of another module."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@dataclass(frozen=True)
class Style:
    """How a network has its time.

    Attributes:
        name: "outside": as SpikingJelly has it. "inside": it loops over single steps in its
            forward. "batch": features are [N, T, ...]. "folded": they are [T * N, ...].
        batch_first: Whether one that loops takes [N, T, ...].
        loop: How it loops.
    """

    name: str = "outside"
    batch_first: bool = False
    loop: str = "for"

    def context(self, mode: str) -> str:
        """What layers inside are built for."""
        return {"outside": mode, "inside": "s"}.get(self.name, self.name)

    def around(self, net: nn.Module) -> nn.Module:
        if self.name == "outside":
            return net
        if self.name == "inside":
            return LoopInside(net, self.batch_first, self.loop)
        return Folding(net) if self.name == "folded" else Around(net)

    def as_taken(self, x: Tensor) -> Tensor:
        """Input as the network takes it, of [T, N, ...]."""
        return x.transpose(0, 1) if self.name == "batch" or self.batch_first else x

    def by_time(self, outputs: Tensor) -> Tensor:
        """Logits [T, N, K] of what it gave."""
        return outputs.transpose(0, 1) if self.name == "batch" else outputs


def set_dropped(model: nn.Module, dropped: bool) -> None:
    for module in model.modules():
        if isinstance(module, LeftOut):
            module.dropped = dropped


def parts_inside(part: Any) -> list[Any]:
    """The parts that a part is made of."""
    inside = [*getattr(part, "parts", ()), *vars(part).values()]
    return [p for p in inside if isinstance(p, Chain | Fire) or hasattr(p, "by_hand")]
