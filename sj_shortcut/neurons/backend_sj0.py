"""Backends of SpikingJelly 0.0.0.0.14, whose neurons each have one that can be set."""

from __future__ import annotations

import importlib
import types
from typing import Any

import numpy
import torch
from spikingjelly.activation_based import base, surrogate

from sj_shortcut.neurons.backend_rows import FoundNeuron, NeuronBackend, NeuronBackends

__all__ = ["plan_backends", "supply_numpy_int"]


def plan_backends(neurons: list[FoundNeuron], backend: str) -> NeuronBackends:
    """Decide the backend of each neuron, changing nothing.

    Args:
        neurons: The layers of spiking neurons of a model.
        backend: ``"auto"``, ``"torch"``, ``"cupy"`` or ``"triton"``, which is refused.

    Returns:
        One row for each neuron.

    Raises:
        ValueError: If the backend does not exist here.
        RuntimeError: If ``"cupy"`` cannot run here, or fits no neuron.
    """
    if backend == "triton":
        raise ValueError(
            "backend 'triton' does not exist in the installed SpikingJelly, whose neurons run on "
            "PyTorch or CuPy: use 'auto' or 'cupy', or install the generation that has it: pip "
            "install spikingjelly==2.0.0; to check: pip show spikingjelly"
        )
    if backend == "torch":
        return NeuronBackends(found.row("torch", "as asked") for found in neurons)
    if backend == "cupy":
        _require_cupy(neurons)
        return NeuronBackends(_plan_cupy(found, otherwise=None) for found in neurons)
    missing = "; ".join(_missing_for_cupy())
    if missing:
        note = f"{missing}; backend 'cupy' says what to do about it"
        return NeuronBackends(found.row("torch", note) for found in neurons)
    return NeuronBackends(_plan_cupy(found, otherwise="torch") for found in neurons)


def _plan_cupy(found: FoundNeuron, otherwise: str | None) -> NeuronBackend:
    """Give a neuron the CuPy backend if it can have it, else ``otherwise``, else what it has."""
    obstacle = _obstacle_to_cupy(found)
    if obstacle is None:
        return found.row("cupy", f"CuPy kernels on {found.device}")
    return found.row(otherwise or found.module.backend, obstacle)


def _obstacle_to_cupy(found: FoundNeuron) -> str | None:
    module = found.module
    if "cupy" not in module.supported_backends:
        if module.step_mode == "s":
            return "single-step mode has no CuPy kernels (step_mode='m' may)"
        return f"{found.class_name} has no CuPy kernels"
    if not _has_cuda_code(module.surrogate_function):
        return f"surrogate function {type(module.surrogate_function).__name__} has no CUDA code"
    if found.device.type != "cuda":
        return f"on {found.device}, and CuPy needs CUDA"
    return None


class _NumpyWithInt(types.ModuleType):
    """NumPy, and in it the ``int`` that was the same as Python's until NumPy 1.24 took it away."""

    int = int

    def __getattr__(self, name: str) -> Any:
        return getattr(numpy, name)


def supply_numpy_int() -> None:
    """Let the CuPy kernels of IF, LIF and PLIF neurons run with any NumPy.

    SpikingJelly compares with ``numpy.int`` before it launches them. Its own module is given a
    NumPy that has one; NumPy itself, which is everybody's, stays as it is.

    Example:
        >>> from sj_shortcut.neurons.backend import has_cupy_backend
        >>> if has_cupy_backend():
        ...     supply_numpy_int()
    """
    kernels: Any = importlib.import_module("spikingjelly.activation_based.auto_cuda.base")
    kernels.np = _NumpyWithInt(numpy.__name__)


def _has_cuda_code(function: object) -> bool:
    # The base classes have these methods too, but theirs raise, and not before the backward pass.
    bases = (surrogate.SurrogateFunctionBase, surrogate.MultiArgsSurrogateFunctionBase)
    return all(
        getattr(type(function), method, None)
        not in (None, *(getattr(cls, method, None) for cls in bases))
        for method in ("cuda_code", "cuda_codes")
    )


def _missing_for_cupy() -> dict[str, str]:
    """List what this machine lacks for CuPy, and how to get it."""
    missing = {}
    try:
        base.check_backend_library("cupy")
    except ImportError:
        major = (torch.version.cuda or "12").split(".")[0]
        missing["CuPy cannot be imported"] = (
            f"pip install cupy-cuda{major}x, or the build for your version of CUDA, which "
            "nvidia-smi shows; to check: python -c 'import cupy; cupy.show_config()'"
        )
    if not torch.cuda.is_available():
        missing["PyTorch sees no CUDA GPU"] = (
            "it takes an NVIDIA GPU with its driver; to check: nvidia-smi; and a PyTorch built for "
            "CUDA, installed as pytorch.org says; to check: python -c 'import torch; "
            "print(torch.version.cuda, torch.cuda.is_available())'"
        )
    return missing


def _require_cupy(neurons: list[FoundNeuron]) -> None:
    missing = _missing_for_cupy()
    elsewhere = next((found for found in neurons if found.device.type != "cuda"), None)
    if elsewhere is not None:
        missing[f"{elsewhere.label} is on {elsewhere.device}"] = "call model.to('cuda') first"
    if missing:
        reasons = "; ".join(f"{what} ({remedy})" for what, remedy in missing.items())
        raise RuntimeError(
            f"backend 'cupy' cannot run here: {reasons}. Nothing was changed; "
            "backend 'auto' uses CuPy where it can"
        )
    obstacles = [_obstacle_to_cupy(found) for found in neurons]
    if None not in obstacles:
        reasons = "; ".join(f"{n.label}: {why}" for n, why in zip(neurons, obstacles, strict=True))
        raise RuntimeError(
            f"backend 'cupy' fits no neuron of the model, nothing was changed: {reasons}. "
            "Call functional.set_step_mode(model, 'm') if single-step mode is the reason, "
            "or use backend 'torch'"
        )
