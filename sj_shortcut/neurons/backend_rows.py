"""One row for each layer of spiking neurons: where it sits and what runs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn

from sj_shortcut.neurons.families import is_spiking_neuron

__all__ = ["FoundNeuron", "NeuronBackend", "NeuronBackends", "find_neurons", "owner_of"]


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

    def _repr_html_(self) -> str:
        """The same as a table of HTML, for notebooks."""
        rows = [{**asdict(row), "name": row.name or "(model)"} for row in self]
        frame = pd.DataFrame(rows, columns=["name", "module", "backend", "note"])
        with pd.option_context("display.max_colwidth", None):
            table: str = frame.to_html(index=False, border=0)
        return table


class FoundNeuron(NamedTuple):
    """A layer of spiking neurons in its model.

    Attributes:
        path: Dotted path, empty for the model itself.
        module: The neuron; which attributes it has depends on the generation of SpikingJelly.
        device: Where it is taken to be, see :func:`find_neurons`.
    """

    path: str
    module: Any
    device: torch.device

    @property
    def label(self) -> str:
        """What errors call it."""
        return f"{self.path or 'model'} ({self.class_name})"

    @property
    def class_name(self) -> str:
        """Name of its class."""
        return type(self.module).__name__

    def row(self, backend: str, note: str) -> NeuronBackend:
        """Its row, once it is known what runs it and why."""
        return NeuronBackend(self.path, self.class_name, backend, note)


def find_neurons(model: nn.Module) -> Iterator[FoundNeuron]:
    """Find the layers of spiking neurons of a model, in the order of ``named_modules()``.

    Neurons have no tensor before they run: their device is taken to be that of the last parameter
    up to them, or else of the first one after, or else the CPU.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            device = parameter.device
        if is_spiking_neuron(module):
            yield FoundNeuron(path, module, device)


def owner_of(cls: type, methods: tuple[str, ...]) -> type:
    """Find the class, nearest in the line of descent, that defines one of the methods."""
    return next(owner for owner in cls.__mro__ if any(name in vars(owner) for name in methods))
