"""Count spikes and operations of each layer while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sj_shortcut.neurons import is_spiking_neuron, operations_of
from sj_shortcut.neurons.calls import known_step_mode
from sj_shortcut.places import WEIGHT_LAYERS, Layout
from sj_shortcut.torch_model import first_tensor

__all__ = ["Counting", "Tally"]


@dataclass(eq=False)
class Tally:
    """What was counted of one layer.

    Attributes:
        name: Its dotted name.
        module: The layer.
        kind: ``"neurons"``, ``"weights"``, or ``"other"`` for what multiplies without being a
            layer with weights, as attention does.
        spikes: Outputs of neurons that are not 0.
        places: All outputs of neurons.
        rows: Time steps times samples, where the axes are known.
        each: How often each neuron of a sample fired, where the axes are known.
        unknown: Whether axes of some call are not known.
        synops: Accumulates driven by spikes.
        dense: Multiply-accumulates, if nothing that came in was spikes.
        only_spikes: Whether all that came in was spikes.
        products: Number of matrix products and convolutions.
        turn: When it first ran; -1 if never.
    """

    name: str
    module: nn.Module
    kind: str
    spikes: float = 0.0
    places: int = 0
    rows: int = 0
    each: Tensor | None = None
    unknown: bool = False
    synops: int = 0
    dense: int = 0
    only_spikes: bool = True
    products: int = 0
    turn: int = -1


@dataclass(eq=False)
class Counting(TorchDispatchMode):
    """Counts while it is entered.

    Operations belong to the innermost module that runs; what runs inside neurons is theirs.

    Args:
        model: The model.
        neuron_types: Spiking neuron classes of the user's.
        samples: Samples in the batch to come, where known.
        layouts: Axes of outputs of neurons, of those whose step mode does not tell.
    """

    model: nn.Module
    neuron_types: tuple[type, ...] = ()
    samples: int | None = None
    layouts: Mapping[str, Layout | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tallies = {tally.name: tally for tally in self._find()}
        self._running: list[Tally] = []
        self._turns = 0

    def _find(self) -> list[Tally]:
        found: list[Tally] = []
        inside: set[nn.Module] = set()
        for name, module in self.model.named_modules():
            if module in inside:
                continue
            if getattr(module, "is_shortcut_branch", False):
                inside.update(module.modules())
                continue
            if is_spiking_neuron(module, self.neuron_types):
                inside.update(module.modules())
                found.append(Tally(name, module, "neurons"))
            else:
                kind = "weights" if isinstance(module, WEIGHT_LAYERS) else "other"
                found.append(Tally(name, module, kind))
        return found

    def watch(self) -> None:
        """Put hooks on all layers, for :func:`untouched` to take off again."""
        for tally in self.tallies.values():
            tally.module.register_forward_pre_hook(self._opened(tally))
            tally.module.register_forward_hook(self._closed(tally))

    def unresolved(self) -> list[str]:
        """Neurons of which the axes are not known, unless by ``layouts``."""
        return [t.name for t in self.tallies.values() if t.unknown and t.name not in self.layouts]

    def forget(self) -> None:
        """Forget all that was counted."""
        for tally in self.tallies.values():
            fresh = Tally(tally.name, tally.module, tally.kind)
            vars(tally).update(vars(fresh))

    def _opened(self, tally: Tally) -> Callable[..., None]:
        def before(module: nn.Module, args: Any) -> None:
            if tally.turn < 0:
                tally.turn = self._turns
            self._turns += 1
            self._running.append(tally)

        return before

    def _closed(self, tally: Tally) -> Callable[..., None]:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            self._running.pop()
            spikes = first_tensor(output) if tally.kind == "neurons" else None
            if spikes is not None:
                self._fired(tally, spikes.detach())

        return after

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        tally = self._running[-1] if self._running else None
        counted = None if tally is None else operations_of(func, args, kwargs or {}, output)
        if tally is not None and counted is not None:
            tally.products += 1
            tally.synops += counted.synops
            tally.dense += counted.dense
            tally.only_spikes &= not counted.macs
        return output

    def _fired(self, tally: Tally, spikes: Tensor) -> None:
        fired = spikes.ne(0)
        total = fired.sum().item()
        tally.spikes += total
        tally.places += spikes.numel()
        rows = self._rows(tally, fired)
        if rows is None or tally.unknown:
            tally.unknown = True
            return
        each = rows.sum(0, dtype=torch.long)
        if tally.each is not None and tally.each.shape != each.shape:
            tally.unknown = True  # samples of several sizes do not have the same neurons
            return
        tally.each = each if tally.each is None else tally.each + each
        tally.rows += len(rows)

    def _rows(self, tally: Tally, fired: Tensor) -> Tensor | None:
        """``[rows, neurons...]`` of time steps and samples; ``None`` where axes are not known."""
        mode, shape, samples = known_step_mode(tally.module), fired.shape, self.samples
        if mode == "m" and fired.ndim > 1 and samples in (None, shape[1]):
            return fired.flatten(0, 1)
        if mode == "s" and fired.ndim and (samples is None or not shape[0] % max(samples, 1)):
            return fired
        layout = self.layouts.get(tally.name)
        if layout is None or layout.ndim != fired.ndim:
            return None
        arranged = layout.arrange(fired)
        return arranged.flatten(0, 1) if layout.has_time else arranged
