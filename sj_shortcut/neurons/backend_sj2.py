"""Backends of SpikingJelly 2.0.0, which picks kernels itself: ask which, and say no."""

from __future__ import annotations

from typing import Any

from spikingjelly.activation_based import base, functional, neuron, surrogate

from sj_shortcut.neurons.backend_rows import FoundNeuron, NeuronBackend, NeuronBackends, owner_of
from sj_shortcut.neurons.step_modes import StepMode, step_mode_of

__all__ = ["demand_kernels", "kernel_of"]

# The class whose forward runs -> what `functional.neuron_implementation` calls its kernel.
_KERNELS = {
    "ActivationAwareIFNode": "activation_aware_if",
    "ComplementaryLIFNode": "clif",
    "EIFNode": "eif",
    "HalfThresholdIFNode": "if",
    "IFNode": "if",
    "ILIFNode": "ilif",
    "IzhikevichNode": "izhikevich",
    "LIFNode": "lif",
    "OTTTLIFNode": "lif",
    "ParametricLIFNode": "plif",
    "QIFNode": "qif",
    "STBIFNode": "stbif",
    "_OnlineLIFNode": "lif",
}
_MULTI_STEP_KERNELS = ("activation_aware_if", "ilif")
_INFERENCE_KERNELS = ("activation_aware_if", "stbif")
_SURROGATE_FREE_KERNELS = ("ilif", "stbif")
# What to install where a kernel is unavailable, and how to see whether that helped.
_REMEDIES = {
    "triton": "; it comes with PyTorch for CUDA on Linux, else pip install triton; to check: "
    "python -c 'import triton; print(triton.__version__)'"
}
_SINGLE_STEP = ("forward", "single_step_forward", "single_step_functional_forward")
_MULTI_STEP = ("forward", "multi_step_forward", "multi_step_functional_forward")


def demand_kernels(neurons: list[FoundNeuron], backend: str) -> NeuronBackends:
    """Say what will run each neuron, and refuse what is asked for in vain.

    Args:
        neurons: The layers of spiking neurons of a model.
        backend: ``"auto"``, ``"torch"``, ``"triton"`` or ``"cupy"``, which is refused.

    Returns:
        One row for each neuron.

    Raises:
        ValueError: If the backend does not exist here.
        RuntimeError: If a neuron cannot run where it is, or will run on something else.
    """
    if backend == "cupy":
        raise ValueError(
            "backend 'cupy' does not exist in the installed SpikingJelly, which dropped CuPy for "
            "CUDA and Triton kernels: use 'auto', or install the generation that has it: pip "
            "install spikingjelly==0.0.0.0.14; to check: pip show spikingjelly"
        )
    if backend == "triton":
        _require_triton(neurons)
    rows = NeuronBackends(_kernel_row(found) for found in neurons)
    if backend != "auto":
        _refuse_other_kernels(neurons, rows, backend)
    return rows


def _require_triton(neurons: list[FoundNeuron]) -> None:
    elsewhere = next((found for found in neurons if found.device.type != "cuda"), None)
    if elsewhere is not None:
        raise RuntimeError(
            f"backend 'triton' needs a CUDA device, and {elsewhere.label} is on "
            f"{elsewhere.device}: call model.to('cuda') first, or use backend 'auto' (for whether "
            "there is a GPU: python -c 'import torch; print(torch.cuda.is_available())')"
        )
    obstacles = [_obstacle_to_kernel(found) for found in neurons]
    if None not in obstacles:
        reasons = "; ".join(f"{n.label}: {why}" for n, why in zip(neurons, obstacles, strict=True))
        raise RuntimeError(
            f"backend 'triton' fits no neuron of the model: {reasons}. Use backend 'auto'"
        )


def _refuse_other_kernels(neurons: list[FoundNeuron], rows: NeuronBackends, backend: str) -> None:
    complaints = []
    for found, row in zip(neurons, rows, strict=True):
        excused = backend == "triton" and _obstacle_to_kernel(found) is not None
        if row.backend != backend and not excused:
            complaints.append(_complaint(found, row, backend))
    if complaints:
        raise RuntimeError(
            f"backend {backend!r} is not what SpikingJelly picks, and it picks only once: "
            f"{'; '.join(complaints)}. Backend 'auto' takes what it picks"
        )


def _complaint(found: FoundNeuron, row: NeuronBackend, backend: str) -> str:
    kernel = kernel_of(found.module)
    if kernel is None:
        return f"{found.label}: {row.note}; nothing can change that but moving the model to the CPU"
    reason = _implementation(found, kernel)["unavailable"].get(backend)
    because = f" ({backend} is unavailable: {reason}{_REMEDIES.get(backend, '')})" if reason else ""
    return (
        f"{found.label} runs on {row.backend}{because}: "
        f"set {_variable(kernel)}={backend} before Python starts"
    )


def _kernel_row(found: FoundNeuron) -> NeuronBackend:
    if isinstance(found.module, getattr(neuron, "FlexSN", ())):
        return _flexsn_row(found)
    obstacle = _obstacle_to_kernel(found)
    if obstacle is not None:
        return found.row("torch", obstacle)
    kernel = kernel_of(found.module)
    assert kernel is not None  # no kernel would have been an obstacle
    picked = _implementation(found, kernel)["implementation"].removesuffix("-reference")
    if found.device.type == "cpu":
        return found.row(picked, "on cpu SpikingJelly runs PyTorch code")
    note = f"SpikingJelly's pick on {found.device}; {_variable(kernel)} overrules it"
    if kernel in _INFERENCE_KERNELS and picked != "torch":
        note += "; torch where gradients are needed"
    return found.row(picked, note)


def _flexsn_row(found: FoundNeuron) -> NeuronBackend:
    # FlexSN compiles its kernel from the user's function, and finds out only then whether it can.
    if found.device.type != "cuda" or found.module.step_mode == "s":
        return found.row("torch", f"{found.class_name} uses Triton in multi-step mode on CUDA only")
    return found.row("auto", "FlexSN tries Triton at the first input, and else runs PyTorch code")


def _obstacle_to_kernel(found: FoundNeuron) -> str | None:
    kernel = kernel_of(found.module)
    if kernel is None:
        mode = {"s": "single-step", "m": "multi-step"}[_step_mode(found.module)]
        return f"SpikingJelly has no kernel for {found.class_name} in {mode} mode"
    if not _kernel_knows_surrogate(kernel, found.module):
        function = type(found.module.surrogate_function).__name__
        return f"surrogate function {function} has no kernel"
    return None


def kernel_of(module: Any) -> str | None:
    """Name the kernel that a neuron's forward ends in, or None where it is plain PyTorch code.

    Args:
        module: A layer of spiking neurons.

    Raises:
        RuntimeError: If it has no step mode.

    Example:
        >>> kernel_of(neuron.LIFNode()), kernel_of(neuron.KLIFNode())
        ('lif', None)
    """
    step_mode = _step_mode(module)
    methods = _SINGLE_STEP if step_mode == "s" else _MULTI_STEP
    owner = owner_of(type(module), methods)
    if owner in (neuron.BaseNode, base.MemoryModule):  # multi-step repeats single steps there
        owner = owner_of(type(module), _SINGLE_STEP)
    if not owner.__module__.startswith("spikingjelly."):
        return None
    kernel = _KERNELS.get(owner.__name__)
    if kernel in _MULTI_STEP_KERNELS and step_mode == "s":
        return None
    return kernel


def _step_mode(module: Any) -> StepMode:
    mode = step_mode_of(module)
    if mode is None:  # SpikingJelly's neurons all have one, so a subclass must have lost it
        raise RuntimeError(
            f"{type(module).__name__} has no step mode, so what runs it is unknown: let its "
            "__init__ call super().__init__(), and set step_mode to 's' or 'm'"
        )
    return mode


def _kernel_knows_surrogate(kernel: str, module: Any) -> bool:
    if kernel in _SURROGATE_FREE_KERNELS:
        return True
    if kernel == "clif" and type(module.surrogate_function) is surrogate.Rect:
        return True
    try:  # SpikingJelly's own test, which it does not publish
        from spikingjelly._ops.surrogate import _surrogate_spec
    except ImportError:
        return True
    return _surrogate_spec(module.surrogate_function) is not None


def _implementation(found: FoundNeuron, kernel: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = functional.neuron_implementation(kernel, found.device)
    except (RuntimeError, ValueError) as error:
        raise RuntimeError(
            f"{found.label} cannot run on {found.device}: {error} Move the model to the CPU or an "
            "NVIDIA GPU (to check: nvidia-smi; python -c 'import torch; "
            "print(torch.cuda.is_available())'), or unset the environment variable "
            f"{_variable(kernel)} if it is set"
        ) from error
    return answer


def _variable(kernel: str) -> str:
    return f"SJ_{kernel.upper()}_CUDA_IMPLEMENTATION"
