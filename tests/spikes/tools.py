"""What several tests of spikes use."""

from typing import Any

import pandas as pd
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from sj_shortcut import is_spiking_neuron, spike_report
from tests.nets.zoo import ZOO


def specimen(name: str, mode: str = "m") -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A network whose batch norms have seen something, and a batch for it."""
    found = ZOO[name]
    model, x = found.make(mode), found.sequence()
    with torch.no_grad():
        for _ in range(3):
            found.outputs(model, x, mode)
            functional.reset_net(model)
    return model, (x, found.target())


def totals(frame: pd.DataFrame) -> dict[str, float]:
    return frame[["spikes", "synops", "macs"]].sum().to_dict()


def spikes_by_hand(model: nn.Module, run: Any, samples: int) -> dict[str, float]:
    """Spikes a sample of each neuron, by hooks, as the model is."""
    found: dict[str, float] = {}

    def count(name: str) -> Any:
        def after(module: nn.Module, args: Any, output: Tensor) -> None:
            found[name] = found.get(name, 0.0) + float(output.ne(0).sum()) / samples

        return after

    handles = [
        module.register_forward_hook(count(name))
        for name, module in model.named_modules()
        if is_spiking_neuron(module)
    ]
    functional.reset_net(model)
    training = model.training
    model.eval()
    with torch.no_grad():
        run()
    functional.reset_net(model)
    model.train(training)
    for handle in handles:
        handle.remove()
    return found


__all__ = ["ZOO", "specimen", "spike_report", "spikes_by_hand", "totals"]
