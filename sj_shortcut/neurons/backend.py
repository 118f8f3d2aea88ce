"""What runs a model's spiking neurons: SpikingJelly's backends, chosen or asked about.

SpikingJelly 0.0.0.0.14 lets the user pick PyTorch or CuPy for every neuron. SpikingJelly 2.0.0 has
no such switch: it picks native CUDA, Triton or PyTorch kernels by itself. Which of the two is there
is told by what it can do, never by its version; what each needs is in a module of its own.
"""

from __future__ import annotations

from spikingjelly.activation_based import functional
from torch import nn

from sj_shortcut.neurons.backend_rows import NeuronBackend, NeuronBackends, find_neurons
from sj_shortcut.neurons.backend_sj0 import plan_backends, supply_numpy_int
from sj_shortcut.neurons.backend_sj2 import demand_kernels
from sj_shortcut.torch_model.checks import did_you_mean, require_module

__all__ = ["NeuronBackend", "NeuronBackends", "has_cupy_backend", "set_backend"]

_BACKENDS = ("auto", "torch", "cupy", "triton")


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
    require_module(model)
    if backend not in _BACKENDS:
        known = ", ".join(map(repr, _BACKENDS))
        hint = did_you_mean(backend, _BACKENDS, count=1)
        raise ValueError(f"backend must be one of {known}, not {backend!r}.{hint}")
    neurons = list(find_neurons(model))
    if not neurons:
        raise ValueError(
            f"model ({type(model).__name__}) has no spiking neuron, so it has no backend to set: "
            "pass a model with SpikingJelly neurons, such as neuron.LIFNode"
        )
    if not has_cupy_backend():
        return demand_kernels(neurons, backend)
    rows = plan_backends(neurons, backend)
    if any(row.backend == "cupy" for row in rows):
        supply_numpy_int()
    before = [found.module.backend for found in neurons]
    try:
        for found, row in zip(neurons, rows, strict=True):
            found.module.backend = row.backend
    except BaseException:  # an interrupt: half of it is of no use
        for found, old in zip(neurons, before, strict=True):
            found.module._backend = old  # which may be one that only another machine can run
        raise
    return rows
