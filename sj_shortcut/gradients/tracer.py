"""Watch one forward and backward pass: which layers ran, in what order, and what their neurons did.

Everything is reduced to a number at once, on the device it lies on; nothing is moved to the CPU
here and no activation is kept. Only forward hooks and tensor hooks are used: full backward hooks
break on modules that work in place, and leave flags behind.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sj_shortcut.gradients.spikes import SPIKE_MEASURES, Call, Noted, Potentials, SpikeMeasure
from sj_shortcut.gradients.weights import WeightLayer
from sj_shortcut.neurons.calls import known_step_mode
from sj_shortcut.neurons.families import is_spiking_neuron
from sj_shortcut.neurons.fused import potentials_of
from sj_shortcut.neurons.surrogates import AliveCounter
from sj_shortcut.places import WEIGHT_LAYERS
from sj_shortcut.shortcuts.branch import ShortcutBranch
from sj_shortcut.torch_model import first_tensor
from sj_shortcut.torch_model.backward import backward_task, in_backward

__all__ = ["Tracer"]


class Tracer:
    """Hooks on a model's layers with weights and on its spiking layers.

    Shortcut heads are not part of the network and are left out.

    Args:
        model: The bare model.
        quantities: What to measure of spiking layers, the names of columns.
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
        measures = {name: SPIKE_MEASURES[name] for name in quantities}
        self._at_output = {n: m for n, m in measures.items() if m.at == "output"}
        self._at_gradient = {n: m for n, m in measures.items() if m.at == "gradient"}
        self._at_potentials = {n: m for n, m in measures.items() if m.at == "potentials"}
        self.measures_spikes = bool(measures)
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
        if not self.measures_spikes:
            return
        for module in self.neurons:
            add(module.register_forward_pre_hook(self._before_neuron))
            add(module.register_forward_hook(self._after_neuron, always_call=True))
        if not self._at_potentials:
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
            call.grads = 0
            for name in self._at_gradient:
                call.noted.pop(name, None)

    def _begin_forward(self) -> None:
        """Begin to collect the layers that ran, each to be followed by a spiking layer."""
        self._pending: dict[str, None] = {}
        self._ran: set[str] = set()
        self._task = backward_task()

    def _before_model(self, model: nn.Module, args: Any) -> None:
        if not torch.is_grad_enabled() or in_backward():
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
        # The network starts anew without a call of the model where a container runs a part of it
        # for the next time step, and where a checkpoint runs a part again during backward. Layers
        # that ran before are then not followed by the spiking layers that run now.
        if name in self._ran or self._task != backward_task():
            self._begin_forward()
        self._ran.add(name)
        self._pending[name] = None

    def _before_neuron(self, module: nn.Module, args: Any) -> None:
        name = self.neurons.get(module)
        if name is None or not torch.is_grad_enabled():
            return
        multi_step = known_step_mode(module) == "m"
        running = _Running(module, Call(name, self._batch, self._turn, multi_step), self)
        self._running.append(running)
        if self._at_potentials:
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
        self._reduce(call, self._at_output, spikes.detach())
        for name in self._pending:
            self.calls.setdefault(name, []).append(call)
        self._pending = {}
        if spikes.requires_grad:

            def on_gradient(grad: Tensor) -> None:
                self._backward_began = True
                call.grads += 1
                self._reduce(call, self._at_gradient, grad.detach())

            self._tensor_handles.append(spikes.register_hook(on_gradient))

    def _reduce(self, call: Call, measures: Mapping[str, SpikeMeasure], x: Tensor) -> None:
        """Keep of a tensor what the measures reduce it to, and nothing of an earlier one."""
        axes = self._axes(call, x)
        for name, measure in measures.items():
            call.noted[name] = Noted([measure.reduce(x, axes)], x.numel())

    def note_potentials(
        self, call: Call, x: Tensor, function: nn.Module, overwrite: bool = False
    ) -> None:
        """Keep what is measured of ``x``, the input of a neuron's surrogate function."""
        axes = self._axes(call, x)
        overwrite = overwrite and len(self._at_potentials) == 1
        seen = Potentials(x, function, self._count_alive, overwrite)
        for name, measure in self._at_potentials.items():
            noted = call.noted.setdefault(name, Noted())
            noted.add(measure.reduce(seen, axes), x.numel())

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
        x = potentials_of(func, output, self.module)
        if x is not None:
            surrogate: Any = self.module.surrogate_function
            self.tracer.note_potentials(self.call, x, surrogate, overwrite=True)
        return output


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
