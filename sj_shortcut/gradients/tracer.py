"""Watch one forward and backward pass: which layers ran, in what order, and what their neurons did.

Everything is reduced to a number at once, on the device it lies on; nothing is moved to the CPU
here and no activation is kept. Only forward hooks and tensor hooks are used: full backward hooks
break on modules that work in place, and leave flags behind.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sj_shortcut.neurons.families import is_spiking_neuron
from sj_shortcut.neurons.surrogates import AliveCounter
from sj_shortcut.places.example_pass import first_tensor
from sj_shortcut.places.read_modules import WEIGHT_LAYERS
from sj_shortcut.shortcuts.branch import ShortcutBranch
from sj_shortcut.torch_model.norms import l2_norm

# SpikingJelly 2.0.0 runs its common neurons as one operator that calls no surrogate function, but
# gives out the membrane potentials before firing: namespace -> position among the outputs.
_FUSED_NEURONS = {
    "sj_eif": 2,
    "sj_if": 2,
    "sj_ilif": 2,
    "sj_izhikevich": 3,
    "sj_lif": 2,
    "sj_plif": 2,
    "sj_qif": 2,
}

QUANTITIES = ("output_grad_norm", "alive", "firing_rate")
NO_BACKWARD = -1


@dataclass(frozen=True, eq=False)
class WeightLayer:
    """A layer with weights: its first dotted name, the module and the weights without the bias."""

    name: str
    module: nn.Module

    @property
    def weights(self) -> list[nn.Parameter]:
        """The weight, or where a parametrization computes it, the parameters it comes from."""
        parametrizations = getattr(self.module, "parametrizations", None)
        if parametrizations is not None and "weight" in parametrizations:
            return list(parametrizations["weight"].parameters(recurse=False))
        own = self.module.named_parameters(recurse=False)
        return [parameter for name, parameter in own if name.startswith("weight")]


@dataclass(eq=False)
class Call:
    """One call of a layer of spiking neurons.

    Attributes:
        neuron: Its dotted name.
        batch: Number of backward passes that had begun before it.
        turn: Number of calls of the model before it that belong to the same ``batch``.
        multi_step: Whether the call ran all time steps.
        shape: Shape of the output.
        fired: Number of outputs that are not 0; ``[T]`` if per step and multi-step.
        alive: Number of alive potentials in each call of the surrogate function; if per step and
            multi-step, for each index of the first axis, which is time if all steps came at once.
        potentials: Size of the argument of each of these calls.
        grad_norm: L2 norm of the gradient at the output; ``[T]`` likewise.
        grads: Number of backward passes that came through.
    """

    neuron: str
    batch: int
    turn: int
    multi_step: bool
    shape: torch.Size = field(default_factory=torch.Size)
    fired: Tensor | None = None
    alive: list[Tensor] = field(default_factory=list)
    potentials: list[int] = field(default_factory=list)
    grad_norm: Tensor | None = None
    grads: int = 0

    @property
    def duration(self) -> int:
        """Time steps in this call."""
        return self.shape[0] if self.multi_step and self.shape else 1


class Tracer:
    """Hooks on a model's layers with weights and on its spiking layers.

    Shortcut heads are not part of the network and are left out.

    Args:
        model: The bare model.
        quantities: What to measure of spiking layers, of ``QUANTITIES``.
        per_step: Keep the time steps of multi-step calls apart.
        alive_threshold: A potential is alive where the surrogate's derivative is above this.
        neuron_types: Classes to take for spiking neurons besides SpikingJelly's.

    Attributes:
        layers: All layers with weights, in the order of definition.
        neurons: All spiking layers, and their dotted names.
        order: Names of those that ran, in the order of their first call.
        calls: For each layer the calls of the spiking layer it feeds: the first to run after it.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        quantities: Collection[str] = (),
        *,
        per_step: bool = False,
        alive_threshold: float = 0.0,
        neuron_types: tuple[type, ...] = (),
    ) -> None:
        self.model = model
        self.quantities = frozenset(quantities)
        self.per_step = per_step
        self._count_alive = AliveCounter(alive_threshold)
        self.layers: list[WeightLayer] = []
        self.neurons: dict[nn.Module, str] = {}
        self.order: list[str] = []
        self.calls: dict[str, list[Call]] = {}
        self._layer_names: dict[nn.Module, str] = {}
        self._handles: list[Any] = []
        self._tensor_handles: list[Any] = []
        self._running: list[_Running] = []
        self._batch = self._turn = -1
        self._backward_began = True
        self._begin_forward()
        for name, module in _without_heads(model):
            if isinstance(module, WEIGHT_LAYERS):
                self.layers.append(WeightLayer(name, module))
                self._layer_names[module] = name
            elif is_spiking_neuron(module, neuron_types):
                self.neurons[module] = name

    def __deepcopy__(self, memo: dict[int, Any]) -> Tracer:
        # A copy of a watched model keeps our hooks, and they find none of its modules here.
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle of a watched model keeps hooks that watch nothing.
        return (Tracer, ())

    @property
    def watching(self) -> bool:
        """Whether hooks are on the model."""
        return bool(self._handles)

    def watch(self) -> None:
        """Put the hooks on: those for the order of layers, and those on neurons if needed."""
        if self.model is None or self.watching:
            return
        add = self._handles.append
        add(self.model.register_forward_pre_hook(self._before_model))
        for module in self._layer_names:
            add(module.register_forward_pre_hook(self._before_layer))
        if not self.quantities:
            return
        for module in self.neurons:
            add(module.register_forward_pre_hook(self._before_neuron))
            add(module.register_forward_hook(self._after_neuron, always_call=True))
        if "alive" not in self.quantities:
            return
        functions = {getattr(module, "surrogate_function", None) for module in self.neurons}
        for function in functions:
            if isinstance(function, nn.Module):
                add(function.register_forward_pre_hook(self._before_surrogate))

    def unwatch(self) -> None:
        """Take every hook off and forget what was measured, but not the order."""
        for running in reversed(self._running):
            running.close()
        for handle in (*self._handles, *self._tensor_handles):
            handle.remove()
        self._running.clear()
        self._handles.clear()
        self.forget()

    def forget(self) -> None:
        """Forget the calls; the hooks stay."""
        for handle in self._tensor_handles:
            handle.remove()
        self._tensor_handles.clear()
        self.calls = {}
        self._backward_began = True

    def forget_gradients(self) -> None:
        """Forget the gradients of the calls, for another backward pass through the same graph."""
        for call in {id(call): call for calls in self.calls.values() for call in calls}.values():
            call.grad_norm, call.grads = None, 0

    def _begin_forward(self) -> None:
        self._pending: dict[str, None] = {}
        self._ran: set[str] = set()
        self._task = _backward_task()

    def _before_model(self, model: nn.Module, args: Any) -> None:
        if not torch.is_grad_enabled() or _backward_task() != NO_BACKWARD:
            return
        if self._backward_began:
            self._batch, self._turn, self._backward_began = self._batch + 1, 0, False
        else:
            self._turn += 1
        self._begin_forward()

    def _before_layer(self, module: nn.Module, args: Any) -> None:
        name = self._layer_names.get(module)
        if name is None:
            return
        if name not in self.order:
            self.order.append(name)
        if not torch.is_grad_enabled():
            return
        # A container runs its part again for the next time step, or a checkpoint in backward.
        if name in self._ran or self._task != _backward_task():
            self._begin_forward()
        self._ran.add(name)
        self._pending[name] = None

    def _before_neuron(self, module: nn.Module, args: Any) -> None:
        name = self.neurons.get(module)
        if name is None or not torch.is_grad_enabled():
            return
        multi_step = getattr(module, "step_mode", "m") == "m"
        running = _Running(module, Call(name, self._batch, self._turn, multi_step), self)
        self._running.append(running)
        if "alive" in self.quantities:
            running.open()

    def _after_neuron(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._running or self._running[-1].module is not module:
            return
        running = self._running.pop()
        running.close()
        spikes = first_tensor(output)
        if spikes is not None:  # it is None after an exception
            self._note(running.call, spikes)

    def _before_surrogate(self, function: nn.Module, args: Any) -> None:
        if self._running and args and isinstance(args[0], Tensor):
            self.note_potentials(self._running[-1].call, args[0].detach(), function)

    def _note(self, call: Call, spikes: Tensor) -> None:
        call.shape = spikes.shape
        axes = self._axes(call, spikes)
        if "firing_rate" in self.quantities:
            call.fired = torch.count_nonzero(spikes.detach(), axes)
        for name in self._pending:
            self.calls.setdefault(name, []).append(call)
        self._pending = {}
        if spikes.requires_grad:

            def on_gradient(grad: Tensor) -> None:
                self._backward_began = True
                call.grads += 1
                if "output_grad_norm" in self.quantities:
                    call.grad_norm = l2_norm(grad, axes)

            self._tensor_handles.append(spikes.register_hook(on_gradient))

    def note_potentials(
        self, call: Call, x: Tensor, function: nn.Module, overwrite: bool = False
    ) -> None:
        """Count the alive ones among ``x``, the input of a neuron's surrogate function."""
        call.alive.append(self._count_alive(function, x, self._axes(call, x), overwrite))
        call.potentials.append(x.numel())

    def _axes(self, call: Call, x: Tensor) -> tuple[int, ...] | None:
        """The axes to reduce over, ``None`` for all."""
        if self.per_step and call.multi_step and x.ndim > 1:
            return tuple(range(1, x.ndim))
        return None


class _Running(TorchFunctionMode):
    """A neuron while it runs: sees the operators it calls, to find the fused ones."""

    def __init__(self, module: nn.Module, call: Call, tracer: Tracer) -> None:
        super().__init__()
        self.module = module
        self.call = call
        self.tracer = tracer
        self._entered = ExitStack()

    def open(self) -> None:
        """Begin to see."""
        self._entered.enter_context(self)

    def close(self) -> None:
        """See no more; closing twice does nothing."""
        self._entered.close()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        namespace = getattr(func, "namespace", "")
        if namespace in _FUSED_NEURONS and func.__name__.startswith("forward"):
            self._note_fused(namespace, output)
        return output

    def _note_fused(self, namespace: str, outputs: tuple[Tensor, ...]) -> None:
        module: Any = self.module
        charged = outputs[_FUSED_NEURONS[namespace]].detach()
        threshold = module.v_threshold
        x = charged / threshold if namespace == "sj_ilif" else charged - threshold
        self.tracer.note_potentials(self.call, x, module.surrogate_function, overwrite=True)


def _backward_task() -> int:
    """The backward pass that is running in this thread, ``NO_BACKWARD`` if none."""
    return torch._C._current_graph_task_id()


def _without_heads(model: nn.Module | None) -> Iterable[tuple[str, nn.Module]]:
    if model is None:
        return ()
    in_heads = {
        inner
        for module in model.modules()
        if isinstance(module, ShortcutBranch)
        for inner in module.modules()
    }
    return [(name, m) for name, m in model.named_modules() if m not in in_heads]
