"""Spiking neurons of every family, each with the equations that it should follow.

Neurons of a family without equations here are *borrowed*: a fresh one of SpikingJelly's, given the
weights, stands in for them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

Weights = dict[str, Tensor]
# Contexts in which there are no layers and neurons of SpikingJelly's.
OWN = ("batch", "folded")
SECOND_GENERATION = hasattr(neuron, "PSN")


class _Fire(torch.autograd.Function):
    """Heaviside step, with the derivative of a steep sigmoid or arctangent in its place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(slope(x))
        return (x >= 0).to(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.saved_tensors[0], None


def fire(x: Tensor) -> Tensor:
    """Sigmoid(4), the default of neurons that charge and fire."""
    return _Fire.apply(x, lambda x: 4 * torch.sigmoid(4 * x) * (1 - torch.sigmoid(4 * x)))


def fire_atan(x: Tensor) -> Tensor:
    """ATan(2), the default of parallel neurons."""
    return _Fire.apply(x, lambda x: 1 / (1 + (torch.pi * x) ** 2))


@dataclass(frozen=True)
class Spike:
    """Settings of one layer of neurons.

    Attributes:
        family: Class in `spikingjelly.activation_based.neuron`.
        threshold: Spikes above it.
        v_reset: Potential after a spike; `None` takes the threshold off it instead.
        detach_reset: Whether gradients pass the reset.
        tau: Time constant.
        T: Time steps, which some parallel neurons have to know.
        channels: Channels, which some neurons have to know.
        recurrent: Whether the spikes come back as drive one time step later.
        own: Whether they are of a class of the user's, which knows nothing of SpikingJelly.
    """

    family: str
    threshold: float = 0.1
    v_reset: float | None = 0.0
    detach_reset: bool = True
    tau: float = 2.0
    T: int = 2
    channels: int = 1
    recurrent: bool = False
    own: bool = False

    spiking = True

    def build(self, context: str) -> nn.Module:
        """The module; in a container ("plain") it is called step by step."""
        if self.own:
            return OwnStep(self) if context in ("s", "plain") else OwnSequence(self, context)
        step_mode = "s" if context == "plain" else context
        made = FAMILIES[self.family].build(self)
        if self.recurrent:
            return layer.ElementWiseRecurrentContainer(made, torch.add, step_mode)
        functional.set_step_mode(made, step_mode)
        return made

    def by_hand(self, x: Tensor, own: Weights, mode: str) -> Tensor:
        """Spikes [T, N, ...] of a drive [T, N, ...]."""
        equations = FAMILIES[self.family].equations
        if self.recurrent:
            own = {name.removeprefix("sub_module."): weight for name, weight in own.items()}
        return self._borrow(x, own, mode) if equations is None else equations(self, x, own)

    def _borrow(self, x: Tensor, own: Weights, mode: str) -> Tensor:
        fresh = self.build(mode).to(x.dtype)
        buffers = dict(fresh.named_buffers())

        def call(x: Tensor) -> Tensor:
            return torch.func.functional_call(fresh, {**own, **buffers}, (x,))

        return call(x) if mode == "m" else torch.stack([call(step) for step in x])


# ----------------------------------------------------------------- neurons that charge, fire, reset


def charge_and_fire(spike: Spike, x: Tensor, charge: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Every time step: potential and drive make the new potential; it fires; it is reset."""
    potential = torch.full_like(x[0], spike.v_reset or 0.0)
    spikes = []
    for drive in x:
        if spike.recurrent and spikes:
            drive = drive + spikes[-1]
        potential = charge(potential, drive)
        spikes.append(fire(potential - spike.threshold))
        potential = reset(spike, potential, spikes[-1])
    return torch.stack(spikes)


def reset(spike: Spike, potential: Tensor, fired: Tensor) -> Tensor:
    fired = fired.detach() if spike.detach_reset else fired
    if spike.v_reset is None:
        return potential - fired * spike.threshold
    return (1 - fired) * potential + fired * spike.v_reset


def integrate(spike: Spike, x: Tensor, own: Weights) -> Tensor:
    return charge_and_fire(spike, x, partial(CHARGES["IFNode"], spike))


def leak(spike: Spike, x: Tensor, own: Weights) -> Tensor:
    return charge_and_fire(spike, x, partial(CHARGES["LIFNode"], spike))


def leak_beside_drive(spike: Spike, x: Tensor, own: Weights) -> Tensor:
    return charge_and_fire(spike, x, partial(CHARGES["LIFNode beside"], spike))


def leak_learnt(spike: Spike, x: Tensor, own: Weights) -> Tensor:
    rest, rate = spike.v_reset or 0.0, own["w"].sigmoid()
    return charge_and_fire(spike, x, lambda v, drive: v + (drive - (v - rest)) * rate)


def leak_rectified(spike: Spike, x: Tensor, own: Weights) -> Tensor:
    rest = spike.v_reset or 0.0
    return charge_and_fire(
        spike, x, lambda v, drive: torch.relu(own["k"] * (v + (drive - (v - rest)) / spike.tau))
    )


def quadratic(spike: Spike, x: Tensor, own: Weights) -> Tensor:
    return charge_and_fire(spike, x, lambda v, drive: v + (drive + v * (v - 0.8)) / spike.tau)


def exponential(spike: Spike, x: Tensor, own: Weights) -> Tensor:
    return charge_and_fire(
        spike, x, lambda v, drive: v + (drive - v + torch.exp(v - 0.8)) / spike.tau
    )


def adaptive(spike: Spike, x: Tensor, own: Weights) -> Tensor:
    """Izhikevich's, with a = 0.2, b = 0.1, tau_w = 2 and everything at rest at 0."""
    adaptation = torch.zeros_like(x[0])
    potential = torch.full_like(x[0], spike.v_reset or 0.0)
    spikes = []
    for drive in x:
        potential = potential + (drive + potential * (potential - 0.8) - adaptation) / spike.tau
        adaptation = adaptation + (0.2 * potential - adaptation) / 2
        spikes.append(fire(potential - spike.threshold))
        potential = reset(spike, potential, spikes[-1])
        if spike.v_reset and spike.detach_reset and not SECOND_GENERATION:
            # 0.0.0.0.14 cuts the gradient to the potential before, not to the one after.
            potential = potential + spike.v_reset * (spikes[-1] - spikes[-1].detach())
        adaptation = adaptation + 0.1 * spikes[-1]  # whose gradient is never cut
    return torch.stack(spikes)


# ------------------------------------------------------------------- neurons of the user's own


class OwnStep(nn.Module):
    """One time step after the other; the potential is remembered until `reset`."""

    def __init__(self, spike: Spike) -> None:
        super().__init__()
        self.spike = spike
        self.v: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        rest = self.spike.v_reset or 0.0
        before = torch.full_like(x, rest) if self.v is None else self.v
        charged = CHARGES[self.spike.family](self.spike, before, x)
        spikes = fire(charged - self.spike.threshold)
        self.v = reset(self.spike, charged, spikes)
        return spikes

    def reset(self) -> None:
        self.v = None


class OwnSequence(nn.Module):
    """All time steps at once, on the axis that the context says, or folded into the batch."""

    def __init__(self, spike: Spike, context: str) -> None:
        super().__init__()
        self.spike = spike
        self.context = context

    def forward(self, x: Tensor) -> Tensor:
        equations = FAMILIES[self.spike.family].equations
        assert equations is not None
        if self.context == "folded":
            return equations(self.spike, x.unflatten(0, (self.spike.T, -1)), {}).flatten(0, 1)
        axis = 1 if self.context == "batch" else 0
        return equations(self.spike, x.movedim(axis, 0), {}).movedim(0, axis)


OWN_CLASSES = (OwnStep, OwnSequence)

CHARGES: dict[str, Callable[[Spike, Tensor, Tensor], Tensor]] = {
    "IFNode": lambda spike, v, x: v + x,
    "LIFNode": lambda spike, v, x: v + (x - (v - (spike.v_reset or 0.0))) / spike.tau,
    "LIFNode beside": lambda spike, v, x: v - (v - (spike.v_reset or 0.0)) / spike.tau + x,
}


# ------------------------------------------------------------------------------- parallel neurons


def parallel(spike: Spike, x: Tensor, own: Weights) -> Tensor:
    """h[t] = b[t] + sum over u of W[t, u] x[u]."""
    return mix_time(x, own["weight"], own["bias"].flatten())


def parallel_masked(spike: Spike, x: Tensor, own: Weights) -> Tensor:
    """With half of the weight of all time steps but the present and the one before."""
    t = torch.arange(len(x))
    near = (t[:, None] >= t) & (t[:, None] - t < 2)
    return mix_time(x, torch.where(near, 1.0, 0.5) * own["weight"], own["bias"].flatten())


def parallel_sliding(spike: Spike, x: Tensor, own: Weights) -> Tensor:
    """h[t] = b + w[1] x[t] + w[0] x[t - 1]."""
    earlier = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    return fire_atan(own["bias"] + own["weight"][1] * x + own["weight"][0] * earlier)


def mix_time(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return fire_atan(
        torch.einsum("tu,u...->t...", weight, x) + bias.reshape(-1, *[1] * (x.ndim - 1))
    )


# ---------------------------------------------------------------------------------- all families


@dataclass(frozen=True)
class Family:
    """How to make neurons of a family.

    Attributes:
        build: The module, in the step mode it comes in.
        equations: What it should compute.
        modes: Step modes it runs in.
        planes: Whether it runs on maps [T, N, C, H, W] only.
        hard: Whether it needs a potential to reset to.
        loops: Whether its equations know the recurrent kind.
    """

    build: Callable[[Spike], nn.Module]
    equations: Callable[[Spike, Tensor, Weights], Tensor] | None = None
    modes: str = "ms"
    planes: bool = False
    hard: bool = False
    loops: bool = False


def _settings(spike: Spike) -> dict[str, Any]:
    return {
        "v_threshold": spike.threshold,
        "v_reset": spike.v_reset,
        "detach_reset": spike.detach_reset,
    }


def _leaky(name: str, **fixed: Any) -> Callable[[Spike], nn.Module]:
    return lambda spike: getattr(neuron, name)(tau=spike.tau, **fixed, **_settings(spike))


def _other(name: str, **fixed: Any) -> Callable[[Spike], nn.Module]:
    return lambda spike: getattr(neuron, name)(v_threshold=spike.threshold, **fixed)


def _lively(parallel_neuron: nn.Module) -> nn.Module:
    """Parallel neurons start with thresholds above what an untrained network reaches."""
    nn.init.constant_(parallel_neuron.bias, -0.1)
    return parallel_neuron


_EVERYWHERE = {
    "IFNode": Family(lambda spike: neuron.IFNode(**_settings(spike)), integrate, loops=True),
    "LIFNode": Family(_leaky("LIFNode"), leak, loops=True),
    "LIFNode beside": Family(_leaky("LIFNode", decay_input=False), leak_beside_drive, loops=True),
    "ParametricLIFNode": Family(
        lambda spike: neuron.ParametricLIFNode(init_tau=spike.tau, **_settings(spike)),
        leak_learnt,
        loops=True,
    ),
    "KLIFNode": Family(_leaky("KLIFNode"), leak_rectified, hard=True),
    "QIFNode": Family(_leaky("QIFNode"), quadratic),
    "EIFNode": Family(_leaky("EIFNode"), exponential),
    "IzhikevichNode": Family(_leaky("IzhikevichNode", v_rest=0.0, a=0.2, b=0.1), adaptive),
}
_SECOND_GENERATION = {
    "PSN": Family(lambda spike: _lively(neuron.PSN(spike.T)), parallel, modes="m"),
    "MaskedPSN": Family(
        lambda spike: _lively(neuron.MaskedPSN(2, spike.T, lambda_init=0.5)),
        parallel_masked,
        modes="m",
    ),
    "SlidingPSN": Family(lambda spike: _lively(neuron.SlidingPSN(2)), parallel_sliding),
    "CUBALIFNode": Family(_other("CUBALIFNode")),
    "ComplementaryLIFNode": Family(_other("ComplementaryLIFNode")),
    "HalfThresholdIFNode": Family(_other("HalfThresholdIFNode")),
    "ILIFNode": Family(_other("ILIFNode")),
    # In step mode 'm' it puts out spikes instead of activations.
    "LIAFNode": Family(
        lambda spike: neuron.LIAFNode(torch.relu, False, **_settings(spike)), modes="s"
    ),
    "RAFNode": Family(_other("RAFNode")),
    "SimpleIFNode": Family(_other("SimpleIFNode")),
    "SimpleLIFNode": Family(_other("SimpleLIFNode", tau=2.0, decay_input=True)),
    # In step mode 's' it is left to the user to cut the gradient between time steps.
    "SLTTLIFNode": Family(_other("SLTTLIFNode"), modes="m"),
    "TernaryIFNode": Family(_other("TernaryIFNode")),
    "TernaryLIFNode": Family(_other("TernaryLIFNode")),
    "GatedLIFNode": Family(
        lambda spike: neuron.GatedLIFNode(spike.T, inplane=spike.channels), modes="m", planes=True
    ),
}
FAMILIES = {
    name: family
    for name, family in (_EVERYWHERE | _SECOND_GENERATION).items()
    if hasattr(neuron, name.split()[0])
    # 0.0.0.0.14 has a LIAFNode, but it cannot be made: it asks for a kernel that is not there.
    and (name != "LIAFNode" or SECOND_GENERATION)
}
