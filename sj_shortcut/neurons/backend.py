"""The two generations of SpikingJelly, and what runs their spiking neurons.

SpikingJelly 0.0.0.0.14 lets the user pick PyTorch or CuPy for every neuron. SpikingJelly 2.0.0 has
no such switch: it picks native CUDA, Triton or PyTorch kernels by itself. All code that has to tell
the two apart lives here, and tells by what the installed one can do, never by its version.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import numpy
import torch
from spikingjelly.activation_based import base, functional, neuron, surrogate
from torch import nn

__all__ = [
    "NeuronBackend",
    "NeuronBackends",
    "has_cupy_backend",
    "is_spiking_neuron",
    "set_backend",
]

_BACKENDS = ("auto", "torch", "cupy", "triton")

# SpikingJelly's spiking neurons have no common base class: these are the roots of their families.
_SPIKING_ROOTS = tuple(
    getattr(neuron, name)
    for name in (
        "BaseNode",
        "SimpleBaseNode",
        "ILCBaseNode",
        "NoisyBaseNode",
        "ActivationAwareIFNode",
        "DSRIFNode",
        "DSRLIFNode",
        "FewSpikeNode",
        "FlexSN",
        "GatedLIFNode",
        "MaskedPSN",
        "PSN",
        "STBIFNode",
        "SlidingPSN",
    )
    if hasattr(neuron, name)
)

# 0.0.0.0.14: the classes whose CuPy kernels compare with `numpy.int`, gone since NumPy 1.24.
_NEED_NP_INT = (neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode)

# 2.0.0: the class whose forward runs -> what `functional.neuron_implementation` calls its kernel.
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
_SINGLE_STEP = ("forward", "single_step_forward", "single_step_functional_forward")
_MULTI_STEP = ("forward", "multi_step_forward", "multi_step_functional_forward")


def is_spiking_neuron(module: nn.Module, extra: tuple[type, ...] = ()) -> bool:
    """Tell whether a module is a layer of spiking neurons.

    SpikingJelly's neurons do not share one base class, so this knows all their families, and users'
    subclasses with them. Surrogate functions, which are children of neurons, are none, nor is any
    class with ``NonSpiking`` in its own name or in that of a class it derives from: such classes
    put out membrane potentials, and many derive from ``LIFNode``.

    Args:
        module: The module to judge.
        extra: Further classes whose instances count as spiking neurons, whatever they are called.

    Returns:
        True for a layer of spiking neurons.

    Example:
        >>> from spikingjelly.activation_based import neuron
        >>> is_spiking_neuron(neuron.LIFNode())
        True
        >>> is_spiking_neuron(neuron.LIFNode().surrogate_function)
        False
    """
    if isinstance(module, extra):
        return True
    if any("NonSpiking" in cls.__name__ for cls in type(module).__mro__):
        return False
    return isinstance(module, _SPIKING_ROOTS)


def has_cupy_backend() -> bool:
    """Tell whether the installed SpikingJelly lets a neuron's backend be chosen (0.0.0.0.14 does).

    Returns:
        True where neurons have a ``backend`` of ``"torch"`` or ``"cupy"``, False where SpikingJelly
        chooses kernels by itself (2.0.0). It says nothing about whether CuPy is installed.

    Example:
        >>> from spikingjelly.activation_based import functional
        >>> has_cupy_backend() == hasattr(functional, "set_backend")
        True
    """
    return hasattr(functional, "set_backend")


@dataclass(frozen=True)
class NeuronBackend:
    """What runs one layer of spiking neurons.

    Attributes:
        name: Dotted path of the neuron in the model, empty for the model itself.
        module: Name of the neuron's class.
        backend: What runs it: ``"torch"``, ``"cupy"``, ``"triton"`` or ``"cuda"`` (SpikingJelly's
            native kernels); ``"auto"`` where SpikingJelly decides only when data comes.
        note: Why this one, or what limits it.

    Example:
        >>> NeuronBackend("layer1.0.sn1", "LIFNode", "torch", "on cpu").backend
        'torch'
    """

    name: str
    module: str
    backend: str
    note: str


class NeuronBackends(list[NeuronBackend]):
    """A list of :class:`NeuronBackend` that prints as a table.

    Example:
        >>> NeuronBackends([NeuronBackend("sn1", "LIFNode", "torch", "on cpu")])
        name  module   backend  note
        sn1   LIFNode  torch    on cpu
    """

    def __repr__(self) -> str:
        header = ("name", "module", "backend", "note")
        rows = [header, *((row.name or "(model)", *astuple(row)[1:]) for row in self)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        )
        return "\n".join(line.rstrip() for line in lines)


def set_backend(model: nn.Module, backend: str = "auto") -> NeuronBackends:
    """Choose what runs a model's spiking neurons, or learn what will run them.

    On SpikingJelly 0.0.0.0.14 this sets every neuron's ``backend``. There, CuPy kernels exist for
    some neurons, in multi-step mode, on CUDA (``IFNode`` and ``LIFNode`` use theirs for training
    only). So set the step mode and move the model first, then call this.

    On SpikingJelly 2.0.0 there is nothing to set: it picks kernels by itself, and environment
    variables set before Python starts overrule it. Here ``"auto"`` says what it picks; any other
    value is a demand, met or refused. What is said holds for 32-bit or autocast training without
    ``torch.compile``, which picks anew.

    Either all neurons are set or, on an error, none.

    Args:
        model: The model. A neuron's device is taken to be that of the last parameter up to it, or
            else of the first one after it; a model without parameters is taken to be on the CPU.
        backend: ``"auto"`` for the fastest that will work, ``"torch"``, ``"cupy"`` (0.0.0.0.14
            only) or ``"triton"`` (2.0.0 only). A neuron that has no CuPy or Triton kernel stays as
            it is, and its row says why.

    Returns:
        One row for each layer of spiking neurons, in the order of ``model.named_modules()``.

    Raises:
        TypeError: If ``model`` is not a module.
        ValueError: If ``backend`` is unknown or the installed SpikingJelly does not have it, or if
            the model has no spiking neuron.
        RuntimeError: If the backend asked for cannot run here: the message says what is missing.

    Example:
        >>> from spikingjelly.activation_based import layer, neuron
        >>> net = nn.Sequential(layer.Linear(4, 2), neuron.LIFNode(step_mode="m"))
        >>> set_backend(net, "torch")[0].backend
        'torch'
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if backend not in _BACKENDS:
        raise ValueError(_unknown_backend(backend))
    neurons = list(_neurons(model))
    if not neurons:
        raise ValueError(
            f"model ({type(model).__name__}) has no spiking neuron, so it has no backend to set: "
            "pass a model with SpikingJelly neurons, such as neuron.LIFNode"
        )
    if not has_cupy_backend():
        return _demand_kernels(neurons, backend)
    rows = _plan_backends(neurons, backend)
    before = [found.module.backend for found in neurons]
    try:
        for found, row in zip(neurons, rows, strict=True):
            found.module.backend = row.backend
    except BaseException:  # an interrupt: half of it is of no use
        for found, old in zip(neurons, before, strict=True):
            found.module._backend = old  # which may be one that only another machine can run
        raise
    return rows


class _Neuron(NamedTuple):
    """A layer of spiking neurons, where it sits in its model, and its device."""

    path: str
    module: Any  # a neuron, whose attributes depend on the generation
    device: torch.device

    @property
    def label(self) -> str:
        return f"{self.path or 'model'} ({self.class_name})"

    @property
    def class_name(self) -> str:
        return type(self.module).__name__

    def row(self, backend: str, note: str) -> NeuronBackend:
        return NeuronBackend(self.path, self.class_name, backend, note)


def _neurons(model: nn.Module) -> Iterator[_Neuron]:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            device = parameter.device
        if is_spiking_neuron(module):
            yield _Neuron(path, module, device)


def _unknown_backend(backend: object) -> str:
    near = difflib.get_close_matches(str(backend).lower(), _BACKENDS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"backend must be one of {', '.join(map(repr, _BACKENDS))}, not {backend!r}.{hint}"


# SpikingJelly 0.0.0.0.14: every neuron has a backend that can be set.


def _plan_backends(neurons: list[_Neuron], backend: str) -> NeuronBackends:
    if backend == "triton":
        raise ValueError(
            "backend 'triton' does not exist in the installed SpikingJelly, whose neurons run on "
            "PyTorch or CuPy: use 'auto' or 'cupy', or install SpikingJelly 2.0.0, which has it"
        )
    if backend == "torch":
        return NeuronBackends(found.row("torch", "as asked") for found in neurons)
    if backend == "cupy":
        _require_cupy(neurons)
        return NeuronBackends(_plan_cupy(found, otherwise=None) for found in neurons)
    missing = "; ".join(_missing_for_cupy())
    if missing:
        return NeuronBackends(found.row("torch", missing) for found in neurons)
    return NeuronBackends(_plan_cupy(found, otherwise="torch") for found in neurons)


def _plan_cupy(found: _Neuron, otherwise: str | None) -> NeuronBackend:
    """Give a neuron the CuPy backend if it can have it, else ``otherwise``, else what it has."""
    obstacle = _obstacle_to_cupy(found)
    if obstacle is None:
        return found.row("cupy", f"CuPy kernels on {found.device}")
    return found.row(otherwise or found.module.backend, obstacle)


def _obstacle_to_cupy(found: _Neuron) -> str | None:
    module = found.module
    if "cupy" not in module.supported_backends:
        if module.step_mode == "s":
            return "single-step mode has no CuPy kernels (step_mode='m' may)"
        return f"{found.class_name} has no CuPy kernels"
    if not _has_cuda_code(module.surrogate_function):
        return f"surrogate function {type(module.surrogate_function).__name__} has no CUDA code"
    if found.device.type != "cuda":
        return f"on {found.device}, and CuPy needs CUDA"
    if _owner(type(module), _MULTI_STEP) in _NEED_NP_INT and not _numpy_has_int():
        return (
            f"its CuPy kernels ask for numpy.int, which NumPy {numpy.__version__} does not have: "
            "set numpy.int = int first"
        )
    return None


def _numpy_has_int() -> bool:
    with warnings.catch_warnings():  # NumPy 1.20 to 1.23 have it, and warn
        warnings.simplefilter("ignore")
        return hasattr(numpy, "int")


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
            f"pip install cupy-cuda{major}x, or the build that matches your CUDA version"
        )
    if not torch.cuda.is_available():
        missing["PyTorch sees no CUDA GPU"] = (
            "it takes an NVIDIA GPU and driver, and a PyTorch built for CUDA"
        )
    return missing


def _require_cupy(neurons: list[_Neuron]) -> None:
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


# SpikingJelly 2.0.0: it picks the kernels, so all there is to do is to ask which and to say no.


def _demand_kernels(neurons: list[_Neuron], backend: str) -> NeuronBackends:
    if backend == "cupy":
        raise ValueError(
            "backend 'cupy' does not exist in the installed SpikingJelly, which dropped CuPy for "
            "CUDA and Triton kernels: use 'auto', or install SpikingJelly 0.0.0.0.14, which has it"
        )
    if backend == "triton":
        _require_triton(neurons)
    rows = NeuronBackends(_kernel_row(found) for found in neurons)
    if backend != "auto":
        _refuse_other_kernels(neurons, rows, backend)
    return rows


def _require_triton(neurons: list[_Neuron]) -> None:
    elsewhere = next((found for found in neurons if found.device.type != "cuda"), None)
    if elsewhere is not None:
        raise RuntimeError(
            f"backend 'triton' needs a CUDA device, and {elsewhere.label} is on "
            f"{elsewhere.device}: call model.to('cuda') first, or use backend 'auto'"
        )
    obstacles = [_obstacle_to_kernel(found) for found in neurons]
    if None not in obstacles:
        reasons = "; ".join(f"{n.label}: {why}" for n, why in zip(neurons, obstacles, strict=True))
        raise RuntimeError(
            f"backend 'triton' fits no neuron of the model: {reasons}. Use backend 'auto'"
        )


def _refuse_other_kernels(neurons: list[_Neuron], rows: NeuronBackends, backend: str) -> None:
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


def _complaint(found: _Neuron, row: NeuronBackend, backend: str) -> str:
    kernel = _kernel(found.module)
    if kernel is None:
        return f"{found.label}: {row.note}; nothing can change that but moving the model to the CPU"
    reason = _implementation(found, kernel)["unavailable"].get(backend)
    because = f" ({backend} is unavailable: {reason})" if reason else ""
    return (
        f"{found.label} runs on {row.backend}{because}: "
        f"set {_variable(kernel)}={backend} before Python starts"
    )


def _kernel_row(found: _Neuron) -> NeuronBackend:
    if isinstance(found.module, getattr(neuron, "FlexSN", ())):
        return _flexsn_row(found)
    obstacle = _obstacle_to_kernel(found)
    if obstacle is not None:
        return found.row("torch", obstacle)
    kernel = _kernel(found.module)
    assert kernel is not None  # no kernel would have been an obstacle
    picked = _implementation(found, kernel)["implementation"].removesuffix("-reference")
    if found.device.type == "cpu":
        return found.row(picked, "on cpu SpikingJelly runs PyTorch code")
    note = f"SpikingJelly's pick on {found.device}; {_variable(kernel)} overrules it"
    if kernel in _INFERENCE_KERNELS and picked != "torch":
        note += "; torch where gradients are needed"
    return found.row(picked, note)


def _flexsn_row(found: _Neuron) -> NeuronBackend:
    # FlexSN compiles its kernel from the user's function, and finds out only then whether it can.
    if found.device.type != "cuda" or found.module.step_mode == "s":
        return found.row("torch", f"{found.class_name} uses Triton in multi-step mode on CUDA only")
    return found.row("auto", "FlexSN tries Triton at the first input, and else runs PyTorch code")


def _obstacle_to_kernel(found: _Neuron) -> str | None:
    kernel = _kernel(found.module)
    if kernel is None:
        mode = {"s": "single-step", "m": "multi-step"}.get(_step_mode(found.module), "")
        return f"SpikingJelly has no kernel for {found.class_name} in {mode} mode"
    if not _kernel_knows_surrogate(kernel, found.module):
        function = type(found.module.surrogate_function).__name__
        return f"surrogate function {function} has no kernel"
    return None


def _kernel(module: Any) -> str | None:
    """Name the kernel that a neuron's forward ends in, or None where it is plain PyTorch code."""
    methods = _SINGLE_STEP if _step_mode(module) == "s" else _MULTI_STEP
    owner = _owner(type(module), methods)
    if owner in (
        neuron.BaseNode,
        base.MemoryModule,
    ):  # whose multi-step forward repeats single steps
        owner = _owner(type(module), _SINGLE_STEP)
    if not owner.__module__.startswith("spikingjelly."):
        return None
    kernel = _KERNELS.get(owner.__name__)
    if kernel in _MULTI_STEP_KERNELS and _step_mode(module) == "s":
        return None
    return kernel


def _owner(cls: type, methods: tuple[str, ...]) -> type:
    """Find the class, nearest in the line of descent, that defines one of the methods."""
    return next(owner for owner in cls.__mro__ if any(name in vars(owner) for name in methods))


def _step_mode(module: nn.Module) -> str:
    return str(getattr(module, "step_mode", "m"))  # PSN and others know multi-step mode only


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


def _implementation(found: _Neuron, kernel: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = functional.neuron_implementation(kernel, found.device)
    except (RuntimeError, ValueError) as error:
        raise RuntimeError(
            f"{found.label} cannot run on {found.device}: {error} Move the model to the CPU or an "
            f"NVIDIA GPU, or check the environment variable {_variable(kernel)}"
        ) from error
    return answer


def _variable(kernel: str) -> str:
    return f"SJ_{kernel.upper()}_CUDA_IMPLEMENTATION"
