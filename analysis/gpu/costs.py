"""Time, memory and launches of a training step, wrapped against bare."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from spikingjelly.activation_based.model import spiking_resnet
from torch import nn
from torch.profiler import ProfilerActivity, profile

from analysis.overhead.timing import now
from sj_shortcut import ShortcutLoss, wrap_with_shortcuts

__all__ = ["BATCHES", "cost"]

BATCHES = (2, 32, 128)
T = 4


def cost(device: str, size: int, rounds: int, side: int = 32, width: str = "18") -> dict[str, Any]:
    """Bare and wrapped steps of a spiking ResNet, taken in turn.

    Args:
        device: Where.
        size: Samples in a batch.
        rounds: Steps of each to take the median of.
        side: Height and width of the images.
        width: Number in the network's name.

    Returns:
        ``ms``, ``MiB`` and ``kernels`` of both, ``ratio`` of the times, and ``launches``: the share
        of the bare and of the wrapped step in which the GPU runs no kernel but waits for a launch.
    """
    steps = {"bare": _step(device, size, side, width, False)}
    steps["wrapped"] = _step(device, size, side, width, True)
    for step in steps.values():
        for _ in range(2):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = now(torch.device(device))
            step()
            times[name].append(1000 * (now(torch.device(device)) - start))
    row: dict[str, Any] = {"batch": size}
    for name in steps:
        row[f"ms_{name}"] = round(statistics.median(times[name]), 3)
    pairs = zip(times["wrapped"], times["bare"], strict=True)
    row["ratio"] = round(statistics.median(a / b for a, b in pairs), 3)
    if device == "cuda":
        for name, step in steps.items():
            row |= _on_card(name, step, row[f"ms_{name}"])
    return row


def _step(device: str, size: int, side: int, width: str, wrapped: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    model: nn.Module = getattr(spiking_resnet, f"spiking_resnet{width}")(
        spiking_neuron=neuron.LIFNode,
        surrogate_function=surrogate.ATan(),
        detach_reset=True,
        num_classes=10,
    )
    functional.set_step_mode(model, "m")
    criterion: nn.Module = nn.CrossEntropyLoss()
    if wrapped:
        criterion = ShortcutLoss(wrap_with_shortcuts(model), criterion)
    model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x = torch.rand(T, size, 3, side, side, device=device)
    y = torch.arange(size, device=device) % 10

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(x).mean(0), y).backward()
        optimizer.step()
        functional.reset_net(model)

    return step


def _on_card(name: str, step: Callable[[], None], ms: float) -> dict[str, Any]:
    """Peak memory besides what the other network holds, kernels, and the time they leave idle."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - held
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    events = seen.events() or []
    kernels = [e for e in events if e.device_type.name == "CUDA"]
    busy = sum(event.time_range.elapsed_us() for event in kernels) / 1000
    return {
        f"MiB_{name}": round(peak / 2**20, 1),
        f"kernels_{name}": len(kernels),
        f"launches_{name}": round(max(0.0, 1 - busy / ms), 3),
    }
