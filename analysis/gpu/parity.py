"""Checks: whether ways of running a step agree with the plain one in PyTorch."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from analysis.gpu.steps import (
    BACKENDS,
    NEURONS,
    Results,
    UnavailableError,
    amp_step,
    batch,
    make_net,
    results_of,
    train_step,
)
from sj_shortcut import ShortcutLoss

__all__ = ["checks"]

Check = Callable[[], None]
_SECONDS = 120.0  # that a process of one backend may take


def checks(device: str) -> dict[str, Check]:
    """All checks by name, in the order in which to run them; each raises where it fails."""
    found: dict[str, Check] = {
        f"{backend} neurons": lambda backend=backend: _backend(backend, device)  # type: ignore[misc]
        for backend in BACKENDS
    }
    return {
        **found,
        "AMP fp16": lambda: _amp(device, torch.float16),
        "AMP bf16": lambda: _amp(device, torch.bfloat16),
        "CUDA graph": lambda: _cuda_graph(device),
        "inductor": lambda: _inductor(device),
        f"{_process_group(device)}, one process": lambda: _one_process(device),
    }


def _backend(backend: str, device: str) -> None:
    """Logits and gradients of every neuron in every step mode."""
    if device != "cuda":
        raise UnavailableError("needs a GPU")
    if backend == "cupy":
        try:
            import cupy  # noqa: F401
        except ImportError as error:
            raise UnavailableError(
                "needs CuPy: pip install cupy-cuda12x, or as fits CUDA"
            ) from error
    found, expected = results_of(backend, device, _SECONDS), _of_torch(device)
    for key in expected:
        if key[1] != "amp":
            torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-5)


@cache
def _of_torch(device: str) -> Results:
    return results_of("torch", device, _SECONDS)


def _amp(device: str, dtype: torch.dtype) -> None:
    """A GradScaler steps every weight, and the loss is near that of full precision."""
    for cls in NEURONS.values():
        full = train_step(make_net(cls).to(device))["loss"].item()
        half = amp_step(make_net(cls).to(device), dtype=dtype)
        assert abs(half["loss"] - full) < 0.1 * full, (half["loss"], full)
        assert half["scale"] == 2.0**10, "a step was skipped"
        for weight, after in half["after"].items():
            assert after.isfinite().all() and not after.equal(half["before"][weight]), weight


def _cuda_graph(device: str) -> None:
    """Forward, loss and backward captured once: a replay on new data gives what they do."""
    if device != "cuda":
        raise UnavailableError("needs a GPU")
    model = make_net(neuron.LIFNode).to(device)
    twin = copy.deepcopy(model)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    x, y = batch(device=device)
    static = torch.rand_like(x)

    def step() -> Tensor:
        loss: Tensor = criterion(model(static).mean(0), y)
        loss.backward()
        functional.reset_net(model)
        return loss

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # the first batch is looked at
            model.zero_grad(set_to_none=True)
            step()
    torch.cuda.current_stream().wait_stream(stream)
    model.load_state_dict(twin.state_dict())  # statistics of batch norms, in place
    model.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    model.load_state_dict(twin.state_dict())
    static.copy_(x)
    graph.replay()
    expected = train_step(twin)
    torch.testing.assert_close(loss.detach().cpu(), expected["loss"], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(_gradients(model), expected["gradients"], rtol=1e-3, atol=1e-5)


def _inductor(device: str) -> None:
    """A compiled model trains as the plain one does."""
    torch.compiler.reset()
    model = make_net(neuron.LIFNode).to(device)
    twin = copy.deepcopy(model)
    expected = train_step(model)
    found = train_step(torch.compile(twin))  # type: ignore[arg-type]
    found["gradients"] = _gradients(twin)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


def _process_group(device: str) -> str:
    return "NCCL" if device == "cuda" else "gloo"


def _one_process(device: str) -> None:
    """DistributedDataParallel in a group of one gives the gradients of the model alone."""
    if device == "cuda" and not dist.is_nccl_available():
        raise UnavailableError("PyTorch lacks NCCL")
    expected = train_step(make_net(neuron.LIFNode).to(device))
    model = make_net(neuron.LIFNode).to(device)
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"rank": 0, "world_size": 1}
        name = _process_group(device).lower()
        dist.init_process_group(name, init_method=f"file://{folder}/rendezvous", **options)
        try:
            parallel = DistributedDataParallel(model)
            criterion = ShortcutLoss(parallel, nn.CrossEntropyLoss())
            x, y = batch(device=device)
            criterion(parallel(x).mean(0), y).backward()
            functional.reset_net(model)
        finally:
            dist.destroy_process_group()
    torch.testing.assert_close(_gradients(model), expected["gradients"], rtol=1e-3, atol=1e-5)


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
