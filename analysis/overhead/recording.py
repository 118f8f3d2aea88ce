"""What it costs to record gradients while a model trains.

Every variant takes training steps of the same model in turn, in an order drawn anew in each round,
and its time is divided by that of the unrecorded step of the same round: what else the machine
does meanwhile falls on all of them alike. Given is the median of these ratios.

    python -m analysis.overhead.recording                # two models, on the CPU, and a table
    python -m analysis.overhead.recording --device cuda
    python -m analysis.overhead.recording --quick        # a small model, in seconds
"""

from __future__ import annotations

import argparse
import gc
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from spikingjelly.activation_based import functional, monitor, neuron, surrogate
from spikingjelly.activation_based.model import spiking_resnet
from torch import nn

from analysis.overhead.nets import CLASSES, plain_net
from analysis.overhead.timing import device_name, interleave, now
from sj_shortcut import GradientRecorder

__all__ = ["VARIANTS", "main"]

RESULTS = Path(__file__).parent / "results"
STEPS = 4

AfterBackward = Callable[[], None]
Variant = Callable[[nn.Module], AbstractContextManager[AfterBackward]]


def resnet18() -> nn.Module:
    model: nn.Module = spiking_resnet.spiking_resnet18(
        spiking_neuron=neuron.LIFNode,
        surrogate_function=surrogate.ATan(),
        detach_reset=True,
        num_classes=CLASSES,
    )
    return model


# name -> how to make it, batch size, height and width of its input
MODELS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "plain net, 4 layers": (lambda: plain_net(4, 8), 4, 12),
    "plain net, 18 layers": (lambda: plain_net(18, 16), 8, 16),
    "spiking_resnet18": (resnet18, 16, 32),
}


@contextmanager
def unrecorded(model: nn.Module) -> Iterator[AfterBackward]:
    yield lambda: None


def recorded(**options: Any) -> Variant:
    @contextmanager
    def variant(model: nn.Module) -> Iterator[AfterBackward]:
        with GradientRecorder(model, **options) as recorder:

            def after_backward() -> None:
                recorder.step()

            yield after_backward

    return variant


def norm(grad: torch.Tensor) -> torch.Tensor:
    size: torch.Tensor = torch.linalg.vector_norm(grad)
    return size


def monitored(*kinds: type, function: Callable[[torch.Tensor], object] | None = norm) -> Variant:
    """SpikingJelly's monitors of the gradients at the inputs or outputs of neurons."""

    @contextmanager
    def variant(model: nn.Module) -> Iterator[AfterBackward]:
        given = () if function is None else (function,)
        monitors = [kind(model, neuron.BaseNode, *given) for kind in kinds]
        yield lambda: None
        for each in monitors:
            each.remove_hooks()

    return variant


INPUT, OUTPUT = monitor.GradInputMonitor, monitor.GradOutputMonitor
VARIANTS: dict[str, Variant] = {
    "unrecorded": unrecorded,
    "weight norms": recorded(activity=False),
    "weight and output norms": recorded(activity=["output_grad_norm"]),
    "everything": recorded(),
    "everything, per time step": recorded(per_step=True),
    "GradOutputMonitor, norm": monitored(OUTPUT, function=norm),
    "both monitors, norm": monitored(INPUT, OUTPUT, function=norm),
    "GradOutputMonitor": monitored(OUTPUT, function=None),
    "both monitors": monitored(INPUT, OUTPUT, function=None),
}


class Training:
    """A model and one batch to train it on."""

    def __init__(self, name: str, device: torch.device) -> None:
        build, batch, size = MODELS[name]
        torch.manual_seed(0)
        self.model = build().to(device)
        functional.set_step_mode(self.model, "m")
        self.device = device
        self.x = 2 * torch.rand(STEPS, batch, 3, size, size, device=device)
        self.y = torch.arange(batch, device=device) % CLASSES
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)

    def step(self, after_backward: AfterBackward) -> None:
        loss = nn.functional.cross_entropy(self.model(self.x).mean(0), self.y)
        self.optimizer.zero_grad()
        loss.backward()
        after_backward()
        self.optimizer.step()
        functional.reset_net(self.model)

    def seconds(self, variant: Variant, steps: int) -> float:
        """Time of one step, the mean of a few, without what it takes to begin and to end."""
        with variant(self.model) as after_backward:
            self.step(after_backward)
            start = now(self.device)
            for _ in range(steps):
                self.step(after_backward)
            return (now(self.device) - start) / steps

    def growth(self, variant: Variant, few: int = 2, many: int = 8) -> float:
        """MiB of tensors that a recorded step leaves behind."""
        gc.collect()
        gc.freeze()  # what is there already need not be looked through
        with variant(self.model) as after_backward:
            sizes = []
            for count in (few, many - few):
                for _ in range(count):
                    self.step(after_backward)
                sizes.append(tensor_bytes())
        gc.unfreeze()
        return (sizes[1] - sizes[0]) / (many - few) / 2**20


def tensor_bytes() -> int:
    """Memory of all tensors not frozen, each storage counted once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, nn.Parameter):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def measure(name: str, device: torch.device, rounds: int, steps: int) -> pd.DataFrame:
    """One row a variant."""
    training = Training(name, device)
    for variant in VARIANTS.values():
        training.seconds(variant, 1)
    frame = interleave(
        {name: partial(training.seconds, variant, steps) for name, variant in VARIANTS.items()},
        rounds,
        random.Random(0),
    )
    ratios = frame.div(frame["unrecorded"], axis=0)
    return pd.DataFrame(
        {
            "model": name,
            "device": device_name(device),
            "variant": list(VARIANTS),
            "rounds": rounds,
            "ms": frame.median().to_numpy() * 1000,
            "ratio": ratios.median().to_numpy(),
            "ratio_low": ratios.quantile(0.1).to_numpy(),
            "ratio_high": ratios.quantile(0.9).to_numpy(),
            "MiB_per_step": [training.growth(variant) for variant in VARIANTS.values()],
        }
    )


def main(arguments: list[str] | None = None) -> pd.DataFrame:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.overhead.recording",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="the smallest model only")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=25, help="ratios to take the median of")
    parser.add_argument("--steps", type=int, default=1, help="training steps a round and variant")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the table")
    options = parser.parse_args(arguments)
    names = list(MODELS)[:1] if options.quick else list(MODELS)[1:]
    device = torch.device(options.device)
    torch.set_num_threads(1)
    tables = []
    for name in names:
        tables.append(measure(name, device, options.rounds, options.steps))
        print(tables[-1].to_string(index=False, float_format="{:.3g}".format), flush=True)
    table = pd.concat(tables, ignore_index=True)
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / f"recording_{device.type}.csv", index=False, float_format="%.4g")
    return table


if __name__ == "__main__":
    main()
