"""What the modules of a model tell about the places for heads, without running it.

The modules tell which of them are blocks and which are chains of blocks, in the order of
definition. Width, order and everything else is a guess here, which a look at the running model
(:mod:`sj_shortcut.places.looking`) replaces.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from sj_shortcut.neurons import is_spiking_neuron
from sj_shortcut.places.example_pass import WEIGHT_LAYERS

__all__ = ["Place", "read_modules"]

_LISTS = (nn.ModuleList, nn.ModuleDict)
_CHAINS = (nn.Sequential, *_LISTS)
# A module holding a chain longer than this is a network of layers, not one residual block.
_LONGEST_BLOCK = 3


@dataclass(eq=False)
class Place:
    """A module that holds spiking neurons, and so a place where a head might sit.

    Attributes:
        name: Dotted path of the module.
        module: The module.
        chain: Whether its parts are steps of the network rather than parts of one block.
        width: Channels of its output, as the last layer before its end suggests.
        spatial: Whether its output has space behind the channels, likewise.
        resolution: Anything that changes when the resolution of its output does.
        weights_before: Layers with weights that are defined before it.
        parts: The places inside it.
        aliases: Other names of the same module.
    """

    name: str
    module: nn.Module
    chain: bool
    width: int | None = None
    spatial: bool = False
    resolution: Any = 0
    weights_before: int = 0
    parts: list[Place] = field(default_factory=list)
    aliases: tuple[str, ...] = ()

    @property
    def is_list(self) -> bool:
        """Whether it only holds modules, and is never called itself."""
        return isinstance(self.module, _LISTS)

    def all_places(self) -> list[Place]:
        """All places inside it, and itself last."""
        return [place for part in self.parts for place in part.all_places()] + [self]


def read_modules(model: nn.Module, neuron_types: tuple[type, ...] = ()) -> tuple[Place, list[str]]:
    """The tree of places of a model, in the order of definition.

    Args:
        model: The model.
        neuron_types: Classes to take for spiking neurons besides SpikingJelly's.

    Returns:
        The model itself as a place, with all others inside it, and the names of all layers with
        weights.
    """
    reader = _Reader(model, neuron_types)
    return reader.visit("", model), reader.weights


class _Reader:
    """Walks the modules and keeps what the last layers said of width and resolution."""

    def __init__(self, model: nn.Module, neuron_types: tuple[type, ...]) -> None:
        self.neuron_types = neuron_types
        self.weights: list[str] = []
        self._width: int | None = None
        self._spatial = False
        self._resolution = 0
        self._neurons: dict[nn.Module, frozenset[nn.Module]] = {}
        self._names: dict[nn.Module, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self._names.setdefault(module, []).append(name)

    def visit(self, name: str, module: nn.Module) -> Place:
        """Read a module that holds neurons, or is one."""
        place = Place(name, module, chain=False, weights_before=len(self.weights))
        names = self._names[module]
        place.aliases = tuple(names) if len(names) > 1 else ()
        if self._is_neuron(module):
            self._conclude(place)
            return place
        place.chain = name == "" or isinstance(module, _CHAINS) or not self._is_block(module)
        for child_name, child in module.named_children():
            if getattr(child, "is_shortcut_branch", False):
                continue
            if self._neurons_in(child):
                place.parts.append(self.visit(f"{name}.{child_name}".lstrip("."), child))
            else:
                for leaf in child.modules():
                    self._read_layer(leaf)
        self._conclude(place)
        return place

    def _conclude(self, place: Place) -> None:
        place.width, place.spatial = self._width, self._spatial
        place.resolution = self._resolution

    def _is_neuron(self, module: nn.Module) -> bool:
        return is_spiking_neuron(module, self.neuron_types)

    def _neurons_in(self, module: nn.Module) -> int:
        """Number of spiking layers in a module, shared ones counted once."""
        return len(self._all_neurons(module))

    def _all_neurons(self, module: nn.Module) -> frozenset[nn.Module]:
        if module not in self._neurons:
            inside = frozenset[nn.Module]().union(*map(self._all_neurons, module.children()))
            self._neurons[module] = frozenset({module}) if self._is_neuron(module) else inside
        return self._neurons[module]

    def _is_block(self, module: nn.Module) -> bool:
        for chain in module.modules():
            if isinstance(chain, _CHAINS):
                neurons = [n for child in chain.children() if (n := self._neurons_in(child))]
                if len(neurons) > _LONGEST_BLOCK or max(neurons, default=0) > 1:
                    return False
        return True

    def _read_layer(self, leaf: nn.Module) -> None:
        if isinstance(leaf, WEIGHT_LAYERS):
            self.weights.append(self._names[leaf][0])
            self._width = int(getattr(leaf, "out_features", getattr(leaf, "out_channels", 0)))
            self._spatial = not isinstance(leaf, nn.Linear)
        elif isinstance(leaf, nn.modules.batchnorm._NormBase):
            known = not is_lazy(leaf.weight)
            self._width = leaf.num_features if known else self._width
        elif isinstance(size := getattr(leaf, "voting_size", None), int) and self._width:
            self._width //= size
        elif isinstance(leaf, nn.Flatten):
            self._width, self._spatial = None, False
        self._resolution += _changes_resolution(leaf)


def _changes_resolution(leaf: nn.Module) -> bool:
    if isinstance(leaf, nn.modules.pooling._AdaptiveAvgPoolNd | nn.Upsample):
        return True
    stride = getattr(leaf, "stride", 1)
    strides = stride if isinstance(stride, tuple) else (stride,)
    return any(isinstance(s, int) and s > 1 for s in strides)
