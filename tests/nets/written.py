"""Networks as people write them, each small, with what a test must know to check its heads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

T, N, K = 3, 2, 10


def time_first(feature: Tensor) -> Tensor:
    """``[T, N, C, ...]``, averaged over time."""
    return feature.mean(0)


def one_step(feature: Tensor) -> Tensor:
    """``[N, C, ...]``."""
    return feature


def batch_first(feature: Tensor) -> Tensor:
    """``[N, T, C, ...]``, averaged over time."""
    return feature.mean(1)


def time_last(feature: Tensor) -> Tensor:
    """``[N, C, ..., T]``, averaged over time."""
    return feature.mean(-1)


def tokens(feature: Tensor) -> Tensor:
    """``[T, N, L, C]``, averaged over time, channels in front."""
    return feature.mean(0).transpose(1, 2)


def folded(feature: Tensor) -> Tensor:
    """``[N * T, C, ...]``, averaged over time."""
    return feature.unflatten(0, (-1, T)).mean(1)


@dataclass(frozen=True)
class Written:
    """A network, its input and what is right of it.

    Attributes:
        build: Makes it.
        inputs: Makes its positional arguments.
        heads: Where ``"auto"`` puts heads, with the width of each.
        read: A tapped output as ``[N, C, ...]``, averaged over time.
        run: The user's way from inputs to logits.
        batch: The batch axis of every input.
        neurons: Classes that the user must name.
        needs_example: Whether the model alone is told to need one.
        mixes: Whether the network itself makes samples depend on each other.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    heads: dict[str, int]
    read: Callable[[Tensor], Tensor] = time_first
    run: Callable[..., Tensor] = staticmethod(lambda model, *inputs: model(*inputs))
    batch: int = 0
    neurons: tuple[type, ...] = ()
    needs_example: bool = False
    mixes: bool = False


class Spike(torch.autograd.Function):
    """A step with a surrogate gradient."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v > 0).to(v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        return grad / (1 + 9 * v**2)


def charge(steps: Sequence[Tensor]) -> list[Tensor]:
    """Leaky integration of the steps; the spikes of each."""
    v, spikes = torch.zeros_like(steps[0]), []
    for x in steps:
        v = v / 2 + x
        spikes.append(Spike.apply(v - 0.3))
        v = v * (1 - spikes[-1])
    return spikes


class OwnBatchFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(charge(x.unbind(1)), 1)


class OwnTimeLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(charge(x.unbind(-1)), -1)


class OwnFolded(nn.Module):
    """Folds time, which runs faster than the batch, and knows how many steps there are."""

    def __init__(self) -> None:
        super().__init__()
        self.T = T

    def forward(self, x: Tensor) -> Tensor:
        steps = x.unflatten(0, (-1, self.T)).unbind(1)
        return torch.stack(charge(steps), 1).flatten(0, 1)


class OwnLayer(nn.Module):
    """Weights, norm and neurons in one, batch first."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.weights, self.norm = nn.Linear(i, o, bias=False), nn.BatchNorm1d(o)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.weights(x).flatten(0, 1)).unflatten(0, x.shape[:2])
        return torch.stack(charge(x.unbind(1)), 1)


class OwnByHand(nn.Module):
    """Takes and returns its state."""

    def forward(self, x: Tensor, v: Tensor | None) -> tuple[Tensor, Tensor]:
        v = x if v is None else v / 2 + x
        spike = Spike.apply(v - 0.3)
        return spike, v * (1 - spike)


class OwnRemembering(nn.Module):
    """Remembers by itself, and is reset by a method of a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mem: Tensor | None = None

    def forget(self) -> None:
        self.mem = None

    def forward(self, x: Tensor) -> Tensor:
        v = x if self.mem is None else self.mem / 2 + x
        spike = Spike.apply(v - 0.3)
        self.mem = v * (1 - spike)
        return spike


def lif(mode: str = "m", threshold: float = 0.3) -> neuron.LIFNode:
    return neuron.LIFNode(step_mode=mode, v_threshold=threshold)


def conv(i: int, o: int, stride: int = 1, mode: str = "m") -> nn.Sequential:
    return nn.Sequential(
        layer.Conv2d(i, o, 3, stride, 1, bias=False, step_mode=mode),
        layer.BatchNorm2d(o, step_mode=mode),
        lif(mode),
    )


def rand(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.rand(shape),)


class Net(nn.Module):
    """Blocks one after the other, and a classifier on what they give on average."""

    def __init__(self, *blocks: nn.Module, width: int = 32) -> None:
        super().__init__()
        self.b = nn.ModuleList(blocks)
        self.fc = nn.Linear(width, K)

    def features(self, x: Tensor) -> Tensor:
        for block in self.b:
            x = block(x)
        return x

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.features(x).mean((0, 3, 4)))


def blocks(block: Callable[[int, int, int], nn.Module]) -> Net:
    return Net(block(3, 8, 1), block(8, 16, 2), block(16, 16, 1), block(16, 32, 2))


class StateByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = (
            nn.Conv2d(i, o, 3, s, 1) for i, o, s in ((3, 8, 1), (8, 16, 2), (16, 16, 1))
        )
        self.l1, self.l2, self.l3 = OwnByHand(), OwnByHand(), OwnByHand()
        self.fc = nn.Linear(16, K)

    def forward(self, x: Tensor) -> Tensor:
        v1 = v2 = v3 = None
        total = 0.0
        for _ in range(T):
            s, v1 = self.l1(self.c1(x), v1)
            s, v2 = self.l2(self.c2(s), v2)
            s, v3 = self.l3(self.c3(s), v3)
            total = total + self.fc(s.mean((2, 3)))
        return total / T


def forget_and_loop(model: nn.Module, x: Tensor) -> Tensor:
    for module in model.modules():
        if isinstance(module, OwnRemembering):
            module.forget()
    return torch.stack([model(x) for _ in range(T)]).mean(0)


def remembering() -> nn.Module:
    return nn.Sequential(
        nn.Linear(40, 32),
        OwnRemembering(),
        nn.Linear(32, 24),
        OwnRemembering(),
        nn.Linear(24, K),
    )


def over_time_last() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(20, 32, 1),
        OwnTimeLast(),
        nn.Conv1d(32, 9, 1),
        OwnTimeLast(),
        nn.Conv1d(9, 24, 1),
        OwnTimeLast(),
        nn.Conv1d(24, K, 1),
    )


def volumes_with_time_last() -> nn.Module:
    def part(i: int, o: int, stride: int) -> list[nn.Module]:
        kernel, strides, padding = (3, 3, 1), (stride, stride, 1), (1, 1, 0)
        return [nn.Conv3d(i, o, kernel, strides, padding), OwnTimeLast()]

    return nn.Sequential(
        *part(2, 8, 1),
        *part(8, 16, 2),
        *part(16, 16, 2),
        nn.AdaptiveAvgPool3d((1, 1, None)),
        nn.Flatten(1, 3),
        nn.Conv1d(16, K, 1),
    )


class Fold(nn.Module):
    """Runs its parts on ``[A, B, ...]`` folded to ``[A * B, ...]``."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def all_batch_first() -> nn.Module:
    return nn.Sequential(
        Fold(nn.Conv2d(3, 8, 3, 1, 1)),
        OwnBatchFirst(),
        Fold(nn.Conv2d(8, 16, 3, 2, 1)),
        OwnBatchFirst(),
        Fold(nn.Conv2d(16, 16, 3, 1, 1)),
        OwnBatchFirst(),
        Fold(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, K)),
    )


def without_statistics() -> nn.Module:
    """Its norms keep no running statistics, and so mix samples in eval mode, too."""

    def part(i: int, o: int, stride: int) -> list[nn.Module]:
        norm = nn.BatchNorm2d(o, track_running_stats=False)
        return [Fold(nn.Conv2d(i, o, 3, stride, 1), norm), OwnBatchFirst()]

    out = Fold(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, K))
    return nn.Sequential(*part(3, 8, 1), *part(8, 16, 2), *part(16, 16, 1), out)


def all_folded() -> nn.Module:
    def part(i: int, o: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o), OwnFolded()]

    inside = nn.Sequential(
        *part(3, 8, 1),
        *part(8, 16, 2),
        *part(16, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, K),
    )
    return Fold(*inside)


class Unfolded(nn.Module):
    """Takes and gives ``[N, T, ...]``, while its neurons take rows."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.f = Fold(nn.Conv1d(i, o, 3, stride, 1), nn.BatchNorm1d(o), OwnFolded())

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x) + 0


class TimeAttention(nn.Module):
    """Weighs time steps by a perceptron over them, whose number it is made for."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv, self.bn, self.lif = conv(i, o, stride)
        self.squeeze, self.excite = nn.Linear(T, 2), nn.Linear(2, T)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        weights = self.excite(self.squeeze(x.mean((2, 3, 4)).t()).relu()).sigmoid().t()
        return self.lif(x * weights[:, :, None, None, None])


class ChannelAttention(nn.Module):
    """Weighs channels by a spiking perceptron over their means."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.body = conv(i, o, stride)
        self.squeeze, self.lif, self.excite = nn.Linear(o, 4), lif(threshold=0.1), nn.Linear(4, o)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        weights = self.excite(self.lif(self.squeeze(x.mean((3, 4))))).sigmoid()
        return x * weights[..., None, None]


class RateFirst(nn.Module):
    """Returns its firing rate before its spikes."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.f = conv(i, o, stride)

    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        spikes = self.f(x[1] if isinstance(x, tuple) else x)
        return spikes.mean(), spikes


class RatesFirst(Net):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x)[1]


class Grow(nn.Module):
    """Adds four channels to those it is given."""

    def __init__(self, i: int) -> None:
        super().__init__()
        self.f = conv(i, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.f(x)], 2)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(
            *(
                part
                for width in (8, 16, 16)
                for part in (nn.LazyConv2d(width, 3, 1, 1), nn.LazyBatchNorm2d(), lif("s"))
            )
        )
        self.fc = nn.LazyLinear(K)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.fc(self.f(x).mean((2, 3))) for _ in range(T)]).mean(0)


class StillImage(Net):
    """Makes its input longer by an axis of time, in place, and brighter."""

    def forward(self, x: Tensor) -> Any:
        x.unsqueeze_(0).mul_(2)
        return super().forward(x.expand(T, *x.shape[1:]))


class MostlyFunctions(nn.Module):
    """Only one of its spiking layers is a module."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = (
            layer.Conv2d(i, o, 3, s, 1, step_mode="m")
            for i, o, s in ((3, 8, 1), (8, 16, 2), (16, 16, 1))
        )
        self.lif = lif(threshold=0.1)
        self.fc = nn.Linear(16, K)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lif(self.c2(Spike.apply(self.c1(x) - 0.1)))
        return self.fc(Spike.apply(self.c3(x) - 0.1).mean((0, 3, 4)))


class Backwards(nn.Module):
    """Takes a dict, and is defined from its end to its beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(32, K)
        self.lif = lif(threshold=0.1)
        self.l3 = nn.Sequential(*conv(16, 32, 2)[:2])
        self.l2, self.l1 = conv(8, 16, 2), conv(3, 8)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        x = batch["image"]
        x = x.expand(T, *x.shape)
        return self.fc(self.lif(self.l3(self.l2(self.l1(x)))).mean((0, 3, 4)))


class Words(nn.Module):
    """Embeds text and runs on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lif = nn.Embedding(50, 16), lif(threshold=0.1)
        self.b = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), lif(threshold=0.05)) for _ in range(3)
        )
        self.fc = nn.Linear(16, K)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        x = self.lif(x.expand(T, *x.shape))
        for block in self.b:
            x = x + block(x)
        return self.fc(x.mean((0, 2)))


class Tokens(nn.Module):
    """Layers on tokens, and the average over time and tokens at the end."""

    def __init__(self, width: int, time: int = 0) -> None:
        super().__init__()
        self.time = time
        pairs = ((layer.Linear(i, width, step_mode="m"), lif()) for i in (6, width, width))
        self.b = nn.Sequential(*(part for pair in pairs for part in pair))
        for linear in self.b[::2]:  # so that all layers spike
            nn.init.uniform_(linear.weight, -0.3, 0.5)
        self.fc = nn.Linear(width, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(x.movedim(self.time, 0)).mean((0, 2)))


class LogitsWithTimeLast(Net):
    """Time first inside, and last in what it gives."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((3, 4))).permute(1, 2, 0)


class Exits(Net):
    """Gives logits behind every block, shallow to deep."""

    def __init__(self) -> None:
        super().__init__(conv(3, 8), conv(8, 16, 2), conv(16, 16), conv(16, 32, 2))
        self.exits = nn.ModuleList(nn.Linear(width, K) for width in (8, 16, 16, 32))

    def forward(self, x: Tensor) -> list[Tensor]:
        logits = []
        for block, leave in zip(self.b, self.exits, strict=True):
            x = block(x)
            logits.append(leave(x.mean((0, 3, 4))))
        return logits


class HelperBesideAndFirst(Net):
    """Gives the logits of a helper on a branch of its own, and then its own."""

    def __init__(self) -> None:
        super().__init__(conv(3, 8), conv(8, 16, 2), conv(16, 16), conv(16, 32, 2))
        self.helper, self.helps = conv(8, 12, 2), nn.Linear(12, K)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.b[0](x)
        helped = self.helps(self.helper(first).mean((0, 3, 4)))
        return helped, self.fc(self.b[3](self.b[2](self.b[1](first))).mean((0, 3, 4)))


class HelperAfterAndDeep(Net):
    """Gives its own logits and those of a helper, which has more layers, but not of spikes."""

    def __init__(self) -> None:
        super().__init__(conv(3, 8), conv(8, 16, 2), conv(16, 32, 2))
        self.helper = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU())
        self.helps = nn.Linear(12, K)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.b[1](self.b[0](x))
        helped = self.helps(self.helper(x.mean((0, 3, 4))))
        return self.fc(self.b[2](x).mean((0, 3, 4))), helped


class Views(Net):
    """Runs an image and its mirror image as one batch, and averages their logits."""

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([x, x.flip(-1)], 1)
        return super().forward(both).unflatten(0, (2, -1)).mean(0)


class CriticFirst(Net):
    """Gives a value, of a branch of its own, before the logits."""

    def __init__(self) -> None:
        super().__init__(conv(3, 8), conv(8, 16, 2), conv(16, 16), width=16)
        self.critic, self.value = nn.Sequential(conv(8, 16, 2), conv(16, 16)), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.b[0](x)
        value = self.value(self.critic(first).mean((0, 3, 4)))
        return value, self.fc(self.b[2](self.b[1](first)).mean((0, 3, 4)))


class FeatureFirst(Net):
    """Gives the classifier's feature before the logits."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.features(x).mean((0, 3, 4))
        return feature, self.fc(feature)


class FeaturesOfAllSteps(nn.Module):
    """Gives the features of all time steps, gathered beside the way to the logits, and these."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Sequential(conv(3, 8, 1, "s"), conv(8, 16, 2, "s"), conv(16, 16, 1, "s"))
        self.fc = nn.Linear(16, K)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = [self.b(x).mean((2, 3)) for _ in range(T)]
        logits = [self.fc(feature) for feature in features]
        return {"features": torch.stack(features, 1), "logits": torch.stack(logits, 1).mean(1)}


class HelperInTraining(Net):
    """Gives the logits of a helper in front, in training mode only."""

    def __init__(self) -> None:
        super().__init__(conv(3, 8), conv(8, 16, 2), conv(16, 16), width=16)
        self.helper, self.helps = nn.Sequential(conv(8, 16, 2), conv(16, 16)), nn.Linear(16, K)

    def forward(self, x: Tensor) -> Any:
        first = self.b[0](x)
        logits = self.fc(self.b[2](self.b[1](first)).mean((0, 3, 4)))
        if not self.training:
            return logits
        return self.helps(self.helper(first).mean((0, 3, 4))), logits


EVENTS, IMAGE = rand(T, N, 3, 12, 12), rand(N, 3, 12, 12)


def second(model: nn.Module, x: Tensor) -> Tensor:
    out = model(x)
    return out[1] if isinstance(out, tuple) else out


class Halved(nn.Module):
    """A convolution whose spikes are averaged over every two time steps."""

    def __init__(self, wide: int, width: int, stride: int) -> None:
        super().__init__()
        self.f = conv(wide, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x).unflatten(0, (-1, 2)).mean(1)


class Joints(nn.Module):
    """A graph convolution over the joints of a skeleton, ``[N, C, T, V]``."""

    def __init__(self, wide: int, width: int, stride: int) -> None:
        super().__init__()
        self.mix, self.norm = nn.Conv2d(wide, width, 1), nn.BatchNorm2d(width)
        self.spike = lif()
        self.register_buffer("graph", torch.eye(7) + torch.eye(7).roll(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.mix(x @ self.graph))
        return self.spike(x.permute(2, 0, 1, 3)).permute(1, 2, 0, 3)


class Skeleton(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class ThenTokens(nn.Module):
    """Mixes channels, and then tokens."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.channels, self.tokens = nn.Linear(width, width), nn.Linear(tokens, tokens)
        self.spikes = nn.ModuleList([lif(), lif()])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.spikes[0](self.channels(x))
        return x + self.spikes[1](self.tokens(x.mT)).mT


class Mixer(nn.Module):
    """Tokens of a width, which blocks mix and mix again."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.b = nn.Sequential(*(ThenTokens(tokens, width) for _ in range(3)))
        self.fc = nn.Linear(width, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(self.embed(x)).mean((0, 2)))


WRITTEN = {
    "time pooled in blocks": Written(
        lambda: blocks(Halved), rand(16, N, 3, 12, 12), {"b.0": 8, "b.2": 16}, batch=1
    ),
    "as many joints as time steps": Written(
        lambda: Skeleton(Joints(3, 8, 1), Joints(8, 16, 1), Joints(16, 32, 1)),
        rand(N, 3, 7, 7),
        {"b.0": 8, "b.1": 16},
        read=lambda feature: feature.mean(2),
    ),
    "state by hand": Written(StateByHand, IMAGE, {"l1": 8}, read=one_step, neurons=(OwnByHand,)),
    "memory with a reset of its own": Written(
        remembering,
        rand(N, 40),
        {"1": 32},
        read=one_step,
        run=forget_and_loop,
        neurons=(OwnRemembering,),
    ),
    "time last": Written(
        over_time_last,
        rand(N, 20, 7),
        {"1": 32, "3": 9},
        read=time_last,
        run=lambda model, x: model(x).mean(-1),
        neurons=(OwnTimeLast,),
    ),
    "time last in volumes": Written(
        volumes_with_time_last,
        rand(N, 2, 12, 12, 5),
        {"1": 8, "3": 16},
        read=time_last,
        run=lambda model, x: model(x).mean(-1),
        neurons=(OwnTimeLast,),
    ),
    "batch first, one time step": Written(
        all_batch_first,
        rand(N, 1, 3, 12, 12),
        {"1": 8},
        read=batch_first,
        run=lambda model, x: model(x).mean(1),
        neurons=(OwnBatchFirst,),
    ),
    "folded, as many samples as steps": Written(
        all_folded,
        rand(T, T, 3, 12, 12),
        {"parts.2": 8},
        read=folded,
        run=lambda model, x: model(x).mean(1),
        neurons=(OwnFolded,),
    ),
    "neurons on rows in blocks on both axes": Written(
        lambda: nn.Sequential(
            Unfolded(3, 8, 1),
            Unfolded(8, 16, 2),
            Unfolded(16, 16, 1),
            Fold(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, K)),
        ),
        rand(N, T, 3, 12),
        {"0": 8},
        read=batch_first,
        run=lambda model, x: model(x).mean(1),
        neurons=(OwnFolded,),
    ),
    "a backbone of few layers": Written(
        lambda: WithHead(), EVENTS, {"backbone.encoder.2": 8, "backbone.net.0.2": 16}, batch=1
    ),
    "attention over time": Written(
        lambda: blocks(TimeAttention), EVENTS, {"b.0": 8, "b.2": 16}, batch=1
    ),
    "attention over channels": Written(
        lambda: blocks(ChannelAttention), EVENTS, {"b.0": 8, "b.2": 16}, batch=1
    ),
    "a rate before the spikes": Written(
        lambda: RatesFirst(RateFirst(3, 8, 1), RateFirst(8, 16, 2), RateFirst(16, 32, 2)),
        EVENTS,
        {"b.0.f.2": 8, "b.1.f.2": 16},
        batch=1,
    ),
    "growing by concatenation": Written(
        lambda: Net(Grow(3), Grow(7), Grow(11), width=15), EVENTS, {"b.0": 7, "b.1": 11}, batch=1
    ),
    "lazy layers": Written(Lazy, IMAGE, {"f.2": 8}, read=one_step),
    "an input changed in place": Written(
        lambda: StillImage(conv(3, 8), conv(8, 16, 2), conv(16, 32, 2)),
        IMAGE,
        {"b.0.2": 8, "b.1.2": 16},
        run=lambda model, x: model(x.clone()),
    ),
    "norms without statistics": Written(
        without_statistics,
        rand(N, T, 3, 12, 12),
        {"1": 8},
        read=batch_first,
        run=lambda model, x: model(x).mean(1),
        neurons=(OwnBatchFirst,),
        mixes=True,
    ),
    "layers of weights, norm and neurons": Written(
        lambda: nn.Sequential(
            OwnLayer(6, 16), OwnLayer(16, 12), OwnLayer(12, 12), nn.Linear(12, K)
        ),
        rand(N, 7, 6),
        {"0": 16},
        read=batch_first,
        run=lambda model, x: model(x).mean(1),
        neurons=(OwnLayer,),
    ),
    "functions for neurons": Written(MostlyFunctions, EVENTS, {"lif": 16}, batch=1),
    "a dict, defined backwards": Written(
        Backwards,
        lambda: ({"image": torch.rand(N, 3, 12, 12)},),
        {"l1.2": 8, "l2.2": 16},
        needs_example=True,
    ),
    "text": Written(Words, lambda: (torch.randint(0, 50, (N, 11)),), {"b.0.1": 16}, read=tokens),
    # Of these widths made-up batches with one axis less go through as well, without their samples.
    "tokens over time": Written(
        lambda: Tokens(5), rand(T, N, 11, 6), {"b.3": 5}, read=tokens, batch=1
    ),
    "tokens over time, batch first": Written(
        lambda: Tokens(8, time=1), rand(N, T, 11, 6), {"b.3": 8}, read=tokens
    ),
    "logits with time last": Written(
        lambda: LogitsWithTimeLast(conv(3, 8), conv(8, 16, 2), conv(16, 32, 2)),
        EVENTS,
        {"b.0.2": 8, "b.1.2": 16},
        run=lambda model, x: model(x).mean(-1),
        batch=1,
    ),
    "exits, shallow to deep": Written(
        Exits,
        EVENTS,
        {"b.0.2": 8, "b.2.2": 16},
        run=lambda model, x: model(x)[-1],
        batch=1,
    ),
    "a helper beside, first": Written(
        HelperBesideAndFirst, EVENTS, {"b.0.2": 8, "b.2.2": 16}, run=second, batch=1
    ),
    "a helper behind, of more layers": Written(
        HelperAfterAndDeep,
        EVENTS,
        {"b.0.2": 8, "b.1.2": 16},
        run=lambda model, x: model(x)[0],
        batch=1,
    ),
    "two views in one batch": Written(
        lambda: Views(conv(3, 8), conv(8, 16, 2), conv(16, 32, 2)),
        EVENTS,
        {"b.0.2": 8, "b.1.2": 16},
        read=lambda feature: feature.unflatten(1, (2, -1)).mean((0, 1)),
        batch=1,
    ),
    "a critic's value first": Written(CriticFirst, EVENTS, {"b.0.2": 8}, run=second, batch=1),
    "the feature first": Written(
        lambda: FeatureFirst(conv(3, 8), conv(8, 16, 2), conv(16, 32, 2)),
        EVENTS,
        {"b.0.2": 8, "b.1.2": 16},
        run=second,
        batch=1,
    ),
    "features of all time steps first": Written(
        FeaturesOfAllSteps,
        IMAGE,
        {"b.0.2": 8},
        read=one_step,
        run=lambda model, x: model(x)["logits"],
    ),
    "a helper in training": Written(HelperInTraining, EVENTS, {"b.0.2": 8}, run=second, batch=1),
}


class PerToken(nn.Module):
    """Logits of every token."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Sequential(nn.Linear(12, 16), lif(), nn.Linear(16, 16), lif())
        self.fc = nn.Linear(16, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(x.expand(T, *x.shape)).mean(0))


class ValueOverTime(Net):
    """One number a time step and sample."""

    def __init__(self) -> None:
        super().__init__(conv(3, 8), conv(8, 16, 2), width=16)
        self.fc = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((3, 4))).squeeze(-1)


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(conv(3, 8, 2), conv(8, 8))
        self.out = layer.ConvTranspose2d(8, 3, 2, 2, step_mode="m")

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.f(x.expand(T, *x.shape))).mean(0)


# What no head can be right for: the network, its input, and the words that say so.
class Backbone(nn.Module):
    """Few layers, which give the features that a classifier outside reads."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = conv(3, 8)
        self.net = nn.Sequential(conv(8, 16, 2), conv(16, 32, 2))

    def forward(self, x: Tensor) -> Any:
        x = self.net(self.encoder(x))
        return x, x.mean((0, 3, 4))


class WithHead(nn.Module):
    """A backbone and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.fc = Backbone(), nn.Linear(32, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.backbone(x)[1])


class OneNeuronForAll(nn.Module):
    """A single stateless neuron behind every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = (
            Fold(nn.Conv2d(i, o, 3, s, 1)) for i, o, s in ((3, 8, 1), (8, 16, 2), (16, 32, 2))
        )
        self.spike = OwnBatchFirst()
        self.fc = nn.Linear(32, K)

    def forward(self, x: Tensor) -> Tensor:
        for part in (self.c1, self.c2, self.c3):
            x = self.spike(part(x))
        return self.fc(x.mean((1, 3, 4)))


class ByForward(Net):
    """Calls the forward of its blocks, and not the blocks."""

    def features(self, x: Tensor) -> Tensor:
        for block in self.b:
            x = block[2].forward(block[1](block[0](x)))
        return x


class RowsForSteps(nn.Module):
    """Gives spiking layers the rows of all samples, which these take for time steps of one."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, s, 1), nn.BatchNorm2d(o), lif())
            for i, o, s in ((3, 8, 1), (8, 16, 2), (16, 32, 2))
        )
        self.fc = nn.Linear(32, K)

    def forward(self, x: Tensor) -> Tensor:  # [T, N, ...]
        for part in self.f:
            x = functional.seq_to_ann_forward(x, part)
        return self.fc(x.mean((3, 4)))


class RowsForStepsAveraged(RowsForSteps):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean(0)


# What is told, and how, of networks whose heads need a change of the network or a word.
TOLD: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]], str]] = {
    "one neuron for all depths": (
        OneNeuronForAll,
        rand(N, T, 3, 12, 12),
        r"no one depth\). Make a spiking layer for each depth",
    ),
    "blocks called by forward": (
        lambda: ByForward(conv(3, 8), conv(8, 16, 2), conv(16, 32, 2)),
        EVENTS,
        r"by .forward\(\), which runs no hooks",
    ),
    "rows for time steps": (
        RowsForSteps,
        EVENTS,
        r"as samples depend on each other: 'f.0.2' takes all \d+ rows of its input",
    ),
    "rows for time steps, averaged": (
        RowsForStepsAveraged,
        EVENTS,
        r"as samples depend on each other: 'f.0.2' takes all \d+ rows of its input",
    ),
}

REFUSED: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]], str]] = {
    "logits of every token": (PerToken, rand(N, 9, 12), "token"),
    "as many tokens as time steps": (PerToken, rand(N, T, 12), "token"),
    "a value over time": (ValueOverTime, EVENTS, "scalar"),
    "an autoencoder": (Autoencoder, IMAGE, "dense"),
}
