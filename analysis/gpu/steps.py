"""Training steps of a small wrapped network on a device, to be compared between ways of running it.

SpikingJelly 2.0.0 picks its kernels once in a process, so each choice gets a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from sj_shortcut import ShortcutLoss, set_backend, shortcut_logits, wrap_with_shortcuts
from sj_shortcut.neurons.backend import has_cupy_backend

__all__ = [
    "BACKENDS",
    "CLASSES",
    "MIXED",
    "NEURONS",
    "Results",
    "UnavailableError",
    "amp_step",
    "batch",
    "exact",
    "make_net",
    "results_of",
    "run_all",
    "train_step",
    "with_backend",
]

T, N, CLASSES = 4, 8, 10
NEURONS = {"if": neuron.IFNode, "lif": neuron.LIFNode, "plif": neuron.ParametricLIFNode}
BACKENDS = ["cupy"] if has_cupy_backend() else ["triton", "cuda"]
# What runs neurons in mixed precision: SpikingJelly 2.0.0's kernels refuse potentials in half
# precision where they are asked for by name, and leave them to PyTorch where they are not.
MIXED = "cupy" if has_cupy_backend() else "torch"
UNAVAILABLE = 77  # exit status of a process whose backend cannot be had here
Results = dict[Any, dict[str, Any]]


class UnavailableError(RuntimeError):
    """SpikingJelly cannot run on a backend here; the text says why."""


def make_net(cls: type[nn.Module], step_mode: str = "m") -> nn.Module:
    """The same weights and heads every time; on the CPU."""
    torch.manual_seed(0)
    options = {"v_threshold": 0.5, "surrogate_function": surrogate.ATan()}

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [
            layer.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            layer.BatchNorm2d(outputs),
            cls(**options),
        ]

    model = nn.Sequential(
        *block(2, 8, 1),
        *block(8, 16, 2),
        *block(16, 16, 2),
        layer.AdaptiveAvgPool2d(1),
        layer.Flatten(),
        layer.Linear(16, CLASSES),
    )
    functional.set_step_mode(model, step_mode)
    return wrap_with_shortcuts(model, ["2", "5"], grid=2)


def batch(size: int = N, device: str = "cuda") -> tuple[Tensor, Tensor]:
    """Features ``[T, size, 2, 8, 8]`` and classes, the same every time."""
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.rand(T, size, 2, 8, 8, generator=generator)
    return x.to(device), (torch.arange(size) % CLASSES).to(device)


def train_step(model: nn.Module, step_mode: str = "m", **options: Any) -> dict[str, Any]:
    """Logits, heads' logits and gradients of one step, on the CPU."""
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), **options)
    x, y = batch(device=_device_of(model))
    each = bool(options.get("per_step"))
    output = model(x) if step_mode == "m" else torch.stack([model(step) for step in x])
    output = output if each else output.mean(0)
    heads = {} if each else shortcut_logits(model)
    loss = criterion(output, y)
    loss.backward()
    functional.reset_net(model)
    return {
        "loss": loss.detach().cpu(),
        "output": output.detach().cpu(),
        "heads": {name: logits.detach().cpu() for name, logits in heads.items()},
        "gradients": {
            name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None
        },
    }


def amp_step(
    model: nn.Module, init_scale: float = 2.0**10, dtype: torch.dtype = torch.float16
) -> dict[str, Any]:
    """One step of SGD in half precision with a GradScaler; the weights before and after it."""
    device = _device_of(model)
    before = {name: p.detach().cpu().clone() for name, p in model.named_parameters()}
    scaler = torch.amp.GradScaler(device, init_scale=init_scale)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    x, y = batch(device=device)
    with torch.autocast(device, dtype):
        loss = criterion(model(x).mean(0), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    functional.reset_net(model)
    after = {name: p.detach().cpu().clone() for name, p in model.named_parameters()}
    return {"loss": loss.item(), "before": before, "after": after, "scale": scaler.get_scale()}


def exact() -> None:
    """No TF32, no choice of algorithms: backends are to differ in the neurons only."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def with_backend(model: nn.Module, backend: str, device: str = "cuda") -> nn.Module:
    """The model on the device, its neurons running on ``backend``, which is checked."""
    # set_backend has no name for native CUDA, which is SpikingJelly's to pick.
    rows = set_backend(model.to(device), "auto" if backend == "cuda" else backend)
    assert {row.backend for row in rows} == {backend}, rows
    return model


def run_all(backend: str, device: str = "cuda") -> Results:
    """Everything that is compared between backends."""
    exact()
    results: Results = {}
    for name, cls in NEURONS.items():
        for step_mode in "m" if has_cupy_backend() else "ms":
            model = with_backend(make_net(cls, step_mode), backend, device)
            results[name, step_mode] = train_step(model, step_mode)
        model = with_backend(make_net(cls), backend, device)
        results[name, "per step"] = train_step(model, per_step=True, combine="logits")
        if backend in (MIXED, "torch"):
            results[name, "amp"] = amp_step(with_backend(make_net(cls), backend, device))
    return results


def results_of(backend: str, device: str = "cuda", seconds: float | None = None) -> Results:
    """:func:`run_all`, in a process of its own where SpikingJelly asks for one.

    Raises:
        UnavailableError: If the backend cannot be had here.
        RuntimeError: If it fails.
    """
    if has_cupy_backend():
        return run_all(backend, device)
    script = (
        "import sys, torch\n"
        "from analysis.gpu import steps\n"
        "net = steps.make_net(steps.NEURONS['lif'])\n"
        "try:\n"
        f"    steps.with_backend(net, {backend!r}, {device!r})\n"
        "except RuntimeError as error:\n"
        f"    print(error); sys.exit({UNAVAILABLE})\n"
        f"torch.save(steps.run_all({backend!r}, {device!r}), sys.argv[1])\n"
    )
    variables = {f"SJ_{kernel.upper()}_CUDA_IMPLEMENTATION": backend for kernel in NEURONS}
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "results.pt")
        done = subprocess.run(
            [sys.executable, "-c", script, str(file)],
            env={**os.environ, **variables, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        if done.returncode == UNAVAILABLE:
            raise UnavailableError(
                f"SpikingJelly cannot run on {backend} here: {done.stdout.strip()}"
            )
        if done.returncode:
            raise RuntimeError(done.stderr)
        results: Results = torch.load(file)
        return results


def _device_of(model: nn.Module) -> str:
    return next(model.parameters()).device.type
