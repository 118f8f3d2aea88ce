"""What the modules of a model tell about its layers, without running it.

The survey walks the module tree in the order of definition and notes each place where a head
could sit, with the width and the resolution reached there. A forward pass with an example input
(:mod:`sj_shortcut.places.example_pass`) replaces these guesses by what it has seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spikingjelly.activation_based import base, layer
from torch import nn

from sj_shortcut.neurons.families import is_spiking_neuron
from sj_shortcut.places.example_pass import Sighting

WEIGHT_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)

_LISTS = (nn.ModuleList, nn.ModuleDict)
_CHAINS = (nn.Sequential, *_LISTS)
# A module holding a chain longer than this is a network of layers, not one residual block.
_LONGEST_BLOCK = 3
CLASSIFIER_FEATURE = "the classifier's own feature: left out unless named"


def _containers(*names: str) -> tuple[type, ...]:
    """Container classes by name: 0.0.0.0.14 lacks some of them."""
    return tuple(getattr(layer, name) for name in names if hasattr(layer, name))


_FOLDING = _containers("SeqToANNContainer")
_TIME_LAST = _containers("TLastSeqToANNContainer", "TLastMultiStepContainer")
_LOOPING = _containers(
    "MultiStepContainer",
    "StepModeContainer",
    "ElementWiseRecurrentContainer",
    "LinearRecurrentContainer",
)


def find_clock(module: nn.Module, neuron_types: tuple[type, ...] = ()) -> str | None:
    """Dotted path, relative to ``module``, of the module whose step mode its output follows.

    That is the module itself where it has a step mode, else the first neuron or container in it;
    ``None`` where there is none (a neuron class of the user's own without ``step_mode``).
    """
    if isinstance(module, base.StepModule):
        return ""
    for name, child in module.named_modules():
        # A container before what is in it, which it may call in a step mode of its own.
        if isinstance(child, base.StepModule) and (
            is_spiking_neuron(child, neuron_types) or isinstance(child, (nn.Sequential, *_LOOPING))
        ):
            return str(name)
    return None


def step_mode_of(clock: nn.Module) -> str:
    """Step mode 's' or 'm' of a module found by :func:`find_clock`."""
    if isinstance(clock, base.MultiStepModule):
        return "m"  # containers of 0.0.0.0.14 carry no step mode until set_step_mode
    return str(getattr(clock, "step_mode", "m"))


def last_child(module: nn.Module) -> str:
    """Relative path of the last module in a Sequential, or in one at its end, that is none itself.

    An empty Sequential is passed over: it would run what is put into it.
    """
    if isinstance(module, nn.Sequential):
        for name, child in reversed(list(module.named_children())):
            if not isinstance(child, nn.Sequential):
                return str(name)
            if inner := last_child(child):
                return f"{name}.{inner}"
    return ""


@dataclass
class Draft:
    """A place for a head while the survey still gathers what is known of it.

    Attributes:
        name: Dotted path of the module.
        module: The module.
        width: Channels of its output, where known.
        spatial: Whether its output has space behind the channels, as far as known.
        resolution: Anything that changes when the resolution of its output does.
        on_path: Whether it is a step of the network rather than a part of one.
        repeats: Whether a container around it calls it once a time step.
        weights_before: Layers with weights that run before it starts.
        why_not: Why no head can sit here; empty if one can.
        note: What else to know of it.
        shape: Output shape, if it has been seen.
    """

    name: str
    module: nn.Module
    width: int | None
    spatial: bool
    resolution: Any
    on_path: bool
    repeats: bool
    weights_before: int
    why_not: str
    note: str = ""
    shape: tuple[int, ...] | None = None


class Survey:
    """The places of a model where heads could sit, in order.

    Args:
        model: The model.
        neuron_types: Classes to take for spiking neurons besides SpikingJelly's.

    Attributes:
        drafts: One :class:`Draft` a place.
    """

    def __init__(self, model: nn.Module, neuron_types: tuple[type, ...] = ()) -> None:
        self.drafts: list[Draft] = []
        self._neuron_types = neuron_types
        self._width: int | None = None
        self._spatial = False
        self._resolution = 0
        self._weights = 0
        self._visit("", model, on_path=True, repeats=False, why_not="")
        self._refuse_shared(model)

    def correct(self, sightings: dict[str, Sighting]) -> None:
        """Replace what the definition suggested by what a forward pass has shown."""
        self._weights = sum(isinstance(seen.module, WEIGHT_LAYERS) for seen in sightings.values())
        for draft in self.drafts:
            seen = sightings.get(draft.name)
            if seen is None:
                draft.why_not = draft.why_not or "not called in forward with this example_input"
                draft.on_path = False
                continue
            draft.weights_before = seen.weights_before
            if seen.shape is None:
                draft.why_not = draft.why_not or f"its output is a {seen.kind}, not one tensor"
                continue
            if seen.calls > 1 and not draft.repeats:
                draft.why_not = draft.why_not or f"called {seen.calls} times in one forward"
            clock = find_clock(draft.module, self._neuron_types)
            single = clock is not None and step_mode_of(draft.module.get_submodule(clock)) == "s"
            axis = 1 if single else 2
            draft.shape = seen.shape
            draft.width = seen.shape[axis] if len(seen.shape) > axis else None
            draft.resolution = seen.shape[axis + 1 :]
            draft.spatial = len(seen.shape) > axis + 1
        order = {name: i for i, name in enumerate(sightings)}
        self.drafts.sort(key=lambda draft: order.get(draft.name, len(order)))

    def conclude(self) -> list[int]:
        """Settle which drafts the automatic choices may take, and return the stage of each."""
        for draft in self.drafts:
            if draft.width is None and not draft.why_not:
                draft.why_not = "channels unknown from the modules: pass example_input="
        path = [draft for draft in self.drafts if draft.on_path]
        stages = self._stages(path)
        before_classifier = [d for d in path if d.weights_before < self._weights]
        for draft in path:
            if draft not in before_classifier:
                draft.why_not = draft.why_not or "the model's output itself"
        if before_classifier:
            before_classifier[-1].note = CLASSIFIER_FEATURE
        for draft in path:
            draft.on_path = not (draft.why_not or draft.note)
        return stages

    def _visit(
        self, name: str, module: nn.Module, *, on_path: bool, repeats: bool, why_not: str
    ) -> None:
        weights_before = self._weights
        if not self._neurons_in(module):
            for leaf in module.modules():
                self._read_layer(leaf)
            return
        descend = False
        if not self._is_neuron(module):
            descend = on_path and self._is_path(name, module)
            if isinstance(module, _TIME_LAST):
                why_not = f"{type(module).__name__} '{name}' has time as its last axis"
            inner_why_not = why_not
            if isinstance(module, _FOLDING):
                inner_why_not = (
                    f"inside {type(module).__name__} '{name}', where time and batch share one "
                    f"axis: name '{name}' instead"
                )
            for child_name, child in module.named_children():
                self._visit(
                    f"{name}.{child_name}".lstrip("."),
                    child,
                    on_path=descend,
                    repeats=repeats or isinstance(module, _LOOPING),
                    why_not=inner_why_not,
                )
        if name and not isinstance(module, _LISTS):
            self.drafts.append(
                Draft(
                    name=name,
                    module=module,
                    width=self._width,
                    spatial=self._spatial,
                    resolution=self._resolution,
                    on_path=on_path and not descend,
                    repeats=repeats,
                    weights_before=weights_before,
                    why_not=why_not,
                )
            )

    def _is_neuron(self, module: nn.Module) -> bool:
        return is_spiking_neuron(module, self._neuron_types)

    def _neurons_in(self, module: nn.Module) -> int:
        return sum(self._is_neuron(m) for m in module.modules())

    def _is_path(self, name: str, module: nn.Module) -> bool:
        """Whether the parts of ``module`` are steps of the network, not parts of one block."""
        if isinstance(module, _FOLDING + _TIME_LAST):
            return False
        return name == "" or isinstance(module, _CHAINS) or not self._is_block(module)

    def _is_block(self, module: nn.Module) -> bool:
        for chain in module.modules():
            if isinstance(chain, _CHAINS):
                neurons = [n for child in chain.children() if (n := self._neurons_in(child))]
                if len(neurons) > _LONGEST_BLOCK or max(neurons, default=0) > 1:
                    return False
        return True

    def _read_layer(self, leaf: nn.Module) -> None:
        if isinstance(leaf, WEIGHT_LAYERS):
            self._weights += 1
            self._width = int(getattr(leaf, "out_features", getattr(leaf, "out_channels", 0)))
            self._spatial = not isinstance(leaf, nn.Linear)
        elif isinstance(leaf, nn.modules.batchnorm._NormBase):
            self._width = leaf.num_features
        elif isinstance(leaf, layer.VotingLayer) and self._width is not None:
            self._width //= leaf.voting_size
        elif isinstance(leaf, nn.Flatten):
            self._width, self._spatial = None, False
        self._resolution += _changes_resolution(leaf)

    def _refuse_shared(self, model: nn.Module) -> None:
        names: dict[int, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            names.setdefault(id(module), []).append(name)
        for draft in self.drafts:
            aliases = names[id(draft.module)]
            if len(aliases) > 1:
                draft.why_not = draft.why_not or f"one module shared by {' and '.join(aliases)}"

    @staticmethod
    def _path_stages(path: list[Draft]) -> dict[str, int]:
        stages: dict[str, int] = {}
        stage, key = 0, None
        for draft in path:
            if (draft.width, draft.resolution) != key:
                stage, key = stage + 1, (draft.width, draft.resolution)
            stages[draft.name] = stage
        return stages

    def _stages(self, path: list[Draft]) -> list[int]:
        """Stage of each draft: parts of a block have the block's, chains that of their last."""
        of_path = self._path_stages(path)
        result, current = [], 1
        for draft in self.drafts:
            for block in path:
                if f"{draft.name}.".startswith(f"{block.name}."):
                    current = of_path[block.name]
            result.append(current)
        return result


def _changes_resolution(leaf: nn.Module) -> bool:
    if isinstance(leaf, nn.modules.pooling._AdaptiveAvgPoolNd | nn.Upsample):
        return True
    stride = getattr(leaf, "stride", 1)
    strides = stride if isinstance(stride, tuple) else (stride,)
    return isinstance(leaf, nn.Module) and any(isinstance(s, int) and s > 1 for s in strides)


def infer_num_classes(model: nn.Module, neuron_types: tuple[type, ...] = ()) -> int | None:
    """Class count from the last layers of a model; ``None`` where they do not tell.

    The last Linear (or convolution) tells, divided by the ``voting_size`` of a ``VotingLayer``
    behind it; neurons, norms, pooling, dropout and reshaping in between change nothing.
    """
    votes = 1
    for module in reversed(_leaves(model, neuron_types)):
        if isinstance(module, layer.VotingLayer):
            votes *= module.voting_size
        elif isinstance(module, WEIGHT_LAYERS):
            width = getattr(module, "out_features", getattr(module, "out_channels", 0))
            return int(width) // votes
        elif not (is_spiking_neuron(module, neuron_types) or isinstance(module, _PASS_CLASSES)):
            return None
    return None


_PASS_CLASSES = (
    nn.Identity,
    nn.Flatten,
    nn.Softmax,
    nn.LogSoftmax,
    nn.modules.dropout._DropoutNd,
    nn.modules.batchnorm._NormBase,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    *_containers("Dropout", "Dropout2d"),
)


def _leaves(module: nn.Module, neuron_types: tuple[type, ...]) -> list[nn.Module]:
    children = list(module.children())
    if not children or is_spiking_neuron(module, neuron_types):
        return [module]
    return [leaf for child in children for leaf in _leaves(child, neuron_types)]


def find_loop(root: nn.Module, name: str) -> str | None:
    """Dotted path of the outermost container above ``name`` that can call it once a time step."""
    parts = name.split(".")
    paths = (".".join(parts[:i]) for i in range(len(parts)))
    return next((p for p in paths if isinstance(root.get_submodule(p), _LOOPING)), None)
