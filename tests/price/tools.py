"""What several tests of the price use."""

from typing import Any

import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from tests.nets.small import Net, images, labels

LAYERS = ("layer1.1", "layer2.1", "layer3.1")
# Outputs of a sample times the weights that each meets.
SHARES = {"layer1.1": 16 * 12, "layer2.1": 12 * 6, "layer3.1": 6 * 4}
WHOLE = sum(SHARES.values())


def net(mode: str = "m", seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net(mode)


def batch(seed: int = 1, samples: int = 6) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return images(samples), labels(samples)


def run(model: nn.Module, x: Tensor, mode: str = "m") -> Tensor:
    """Logits ``[N, K]``."""
    return model(x).mean(0) if mode == "m" else torch.stack([model(step) for step in x]).mean(0)


def rates_by_hand(model: nn.Module, x: Tensor, mode: str = "m") -> dict[str, Tensor]:
    """Mean output of each spiking layer, with its graph."""
    found: dict[str, list[Tensor]] = {name: [] for name in LAYERS}

    def keep(name: str) -> Any:
        return lambda module, args, output: found[name].append(output)

    handles = [model.get_submodule(n).register_forward_hook(keep(n)) for n in LAYERS]
    functional.reset_net(model)
    run(model, x, mode)
    functional.reset_net(model)
    for handle in handles:
        handle.remove()
    return {name: torch.stack(calls).mean() for name, calls in found.items()}


def price_by_hand(rates: dict[str, Tensor], targets: dict[str, float]) -> Tensor:
    terms = [
        SHARES[name] / WHOLE * (rates[name] / targets[name] - 1).clamp(min=0) ** 2
        for name in LAYERS
    ]
    return torch.stack(terms).sum()
