"""Run one forward pass to see what a model does, and leave no trace of having done so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from sj_shortcut.neurons.memory import reset_states
from sj_shortcut.torch_model import (
    first_tensor,
    in_backward,
    map_tensors,
    modes_after_interrupts,
    preserved,
    without_checkpoints,
    without_recomputing,
)

__all__ = ["WEIGHT_LAYERS", "Pass", "Sight", "calibrate", "run_pass", "untouched"]

WEIGHT_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass(eq=False)
class Sight:
    """What a module did in a forward pass.

    Attributes:
        name: Its dotted name.
        module: The module.
        weights_before: Layers with weights that had run when it first started.
        args: Positional arguments of its first call, kept of spiking layers.
        kwargs: Keyword arguments likewise.
        after: For each call the layer with weights that ran last before it ended, or "".
        ended: For each call how many calls of layers with weights had ended then.
        shape: Shape of the first tensor in its output; ``None`` if there is none.
        kind: Class name of its output.
        outputs: The first tensor in the output of each call, as long as the pass is looked at.
    """

    name: str
    module: nn.Module
    weights_before: int
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    after: list[str] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    shape: tuple[int, ...] | None = None
    kind: str = ""
    outputs: list[Tensor] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """How often it was called."""
        return len(self.after)


@dataclass
class Pass:
    """A forward pass as it was seen.

    Attributes:
        sights: By name, in the order in which the modules first finished.
        weights: Names of the layers with weights, in the order in which they first ran.
        weight_calls: The same, once for each call.
        output: What the model gave.
    """

    sights: dict[str, Sight]
    weights: list[str]
    weight_calls: list[str]
    output: Any

    def then(self, sight: Sight) -> set[str]:
        """The layers with weights that came next after the calls of a module; "" for none."""
        calls = [*self.weight_calls, ""]
        return {calls[ended] for ended in sight.ended}


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Eval mode with fresh neurons and without hooks; everything is put back after.

    Hooks of others (monitors, recorders, our own) must not take a look for a forward pass.
    """
    with (
        modes_after_interrupts(_device_type(model)),
        preserved(model),
        without_recomputing(),
    ):
        for module in model.modules():
            _take_hooks_off(module)
        model.eval()
        without_checkpoints(model)
        reset_states(model)
        yield


def _take_hooks_off(module: nn.Module) -> None:
    """Leave only what PyTorch itself computes weights by before a forward, as weight norm does."""
    for hooks in (module._forward_hooks, module._backward_hooks, module._backward_pre_hooks):
        hooks.clear()
    for key, hook in list(module._forward_pre_hooks.items()):
        owner = getattr(hook, "__self__", hook)
        if not type(owner).__module__.startswith("torch."):
            del module._forward_pre_hooks[key]


def run_pass(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    is_neuron: Callable[[nn.Module], bool],
    names: Iterable[str] = (),
) -> Pass:
    """Run a model, inside :func:`untouched`, with the graph that gradients need.

    Batch norms, which mix samples in training mode, stay in eval mode, with statistics lent to
    those that keep none; spiking layers are put in training mode, as those of SpikingJelly
    0.0.0.0.14 have no surrogate gradient in eval mode. Gradients are kept from vanishing on their
    way: each is scaled to a largest entry of 1, and where a surrogate function lets nothing through
    they pass straight.

    Args:
        model: The model.
        args: What it takes.
        kwargs: Likewise.
        is_neuron: Whether a module is a spiking layer.
        names: Names that modules go by, where others were put around them since.
    """
    _lend_statistics(model)
    watch = _Watch(model, is_neuron, names)
    handles = watch.begin()
    try:
        with torch.enable_grad(), torch.autocast(_device_type(model), enabled=False):
            args, kwargs = _own((args, dict(kwargs)))
            output = model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return Pass(watch.sights, watch.weights, watch.weight_calls, output)


def calibrate(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Give batch norms the statistics of one batch, inside :func:`untouched`: layers then fire."""
    # Synchronized norms would wait for other processes, which may not be looking.
    plain = (m for m in model.modules() if not isinstance(m, nn.SyncBatchNorm))
    norms = list(filter(_is_norm, plain))
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        args, kwargs = _own((args, dict(kwargs)))
        model(*args, **kwargs)
    for norm in norms:
        norm.eval()
    reset_states(model)


def _lend_statistics(model: nn.Module) -> None:
    """Let norms without running statistics, which mix samples in eval mode too, have some."""
    for norm in model.modules():
        if _is_norm(norm) and norm.running_mean is None and norm.num_features:
            like = next(model.parameters(), torch.empty(0))
            norm.running_mean = like.new_zeros(norm.num_features, requires_grad=False)
            norm.running_var = torch.ones_like(norm.running_mean)
            norm.track_running_stats = True


def _is_norm(module: nn.Module) -> TypeGuard[nn.modules.batchnorm._BatchNorm]:
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def _own(given: Any) -> Any:
    """Copies: a model may change in place what it is given, and autograd knows of these."""
    return map_tensors(given, Tensor.clone)


class _Watch:
    """Hooks that write down what happens."""

    def __init__(
        self, model: nn.Module, is_neuron: Callable[[nn.Module], bool], names: Iterable[str]
    ) -> None:
        self.sights: dict[str, Sight] = {}
        self.weights: list[str] = []
        self.started: dict[nn.Module, tuple[int, Any, Any]] = {}
        self.weight_calls: list[str] = []
        self.is_neuron = is_neuron
        # Models in other threads share surrogate functions with this one, and so their hooks.
        self.thread = threading.get_ident()
        self.names: dict[nn.Module, str] = {}
        inside_neurons: set[nn.Module] = set()
        for name, module in model.named_modules():
            if module not in inside_neurons:
                self.names[module] = name
                if is_neuron(module):
                    inside_neurons.update(module.modules())

        known = {name for name, _ in model.named_modules(remove_duplicate=False)}
        self.names.update({model.get_submodule(name): name for name in names if name not in known})

    def begin(self) -> list[Any]:
        """Put the hooks on."""
        handles: list[Any] = []
        for module in self.names:
            if self.is_neuron(module):
                module.train()
                for norm in filter(_is_norm, module.modules()):
                    norm.eval()
            handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
            handles.append(module.register_forward_hook(self._after))
        return handles

    def _is_foreign(self) -> bool:
        """Whether a call is another thread's, or a checkpoint's that runs its part again."""
        return threading.get_ident() != self.thread or in_backward()

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._is_foreign() or module in self.started:
            return
        kept = (args, kwargs) if self.is_neuron(module) else ((), {})
        self.started[module] = (len(self.weights), *_detached(kept))

    def _after(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._is_foreign():
            return None
        name = self.names[module]
        if isinstance(module, WEIGHT_LAYERS) and name not in self.weights:
            self.weights.append(name)
        sight = self.sights.get(name)
        if sight is None:
            sight = self.sights[name] = Sight(name, module, *self.started[module])
        if isinstance(module, WEIGHT_LAYERS):
            self.weight_calls.append(name)
        sight.after.append(self.weight_calls[-1] if self.weight_calls else "")
        sight.ended.append(len(self.weight_calls))
        tensor = first_tensor(output)
        sight.kind = type(output).__name__
        if tensor is None:
            return None
        sight.shape = tuple(tensor.shape)
        changed = None
        if isinstance(output, Tensor) and output.is_floating_point() and not output.requires_grad:
            straight = _straight(output, args) if self.is_neuron(module) else None
            changed = tensor = output.detach().clone().requires_grad_().clone()
            if straight is not None:
                changed = tensor = straight
        if tensor.requires_grad:
            sight.outputs.append(tensor)
            _keep_alive(tensor, args if self.is_neuron(module) else ())
        return changed


def _straight(output: Tensor, args: Any) -> Tensor | None:
    """Spikes that do not depend on the input of their own time step, as those of resonators.

    They lead to it even so, by the neuron's memory: their gradient passes straight.
    """
    x = args[0] if args else None
    if not (isinstance(x, Tensor) and x.requires_grad and x.shape == output.shape):
        return None
    return output.detach() + (x - x.detach())


def _keep_alive(output: Tensor, args: Any) -> None:
    """Scale the gradient that comes to an output, and pass it on where a surrogate stops it."""
    came: list[Tensor] = []

    def scale(grad: Tensor | None) -> Tensor | None:
        if grad is None:  # of a step that the part looked at does not need
            return None
        grad = torch.nan_to_num(grad, nan=1.0, posinf=1.0, neginf=-1.0)
        largest = grad.abs().amax() if grad.numel() else grad.new_ones(())
        grad = grad / torch.where(largest > 0, largest, 1)
        came[:] = [grad]
        return grad

    output.register_hook(scale)
    x = args[0] if args else None
    if isinstance(x, Tensor) and x.requires_grad and x.shape == output.shape:

        def straight(grad: Tensor | None) -> Tensor | None:
            if grad is None or not came or bool(grad.any()):
                return grad
            return came[0].to(grad.dtype)

        x.register_hook(straight)


def _detached(kept: tuple[Any, Any]) -> tuple[Any, Any]:
    args, kwargs = kept
    cut = [arg.detach() if isinstance(arg, Tensor) else arg for arg in args]
    return tuple(cut), {k: v.detach() if isinstance(v, Tensor) else v for k, v in kwargs.items()}


def _device_type(model: nn.Module) -> str:
    return next((p.device.type for p in model.parameters()), "cpu")
