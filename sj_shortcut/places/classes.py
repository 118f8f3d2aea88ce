"""What the output of a model is: class logits, or something that no head can be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor, nn

from sj_shortcut.neurons import is_spiking_neuron
from sj_shortcut.places.example_pass import WEIGHT_LAYERS

__all__ = ["class_logits", "main_output", "read_num_classes", "without_ones", "why_no_classes"]

_NEED = "Shortcut heads need class logits [N, K], one row a sample: this output has none"
_STEP_MODE = (
    " If its first axis is time, no spiking layer ran it as such: functional.set_step_mode(model, "
    "'m')."
)
# Where it can be seen that the last axis is time there is no refusal.
_TIME_LAST = (
    " Its last axis is as long as the time steps: if it is time, and the classes come before it, "
    "pass num_classes=."
)


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an output without axes of size 1 at its end, as a 1 x 1 convolution leaves."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def main_output(
    outputs: Sequence[Tensor],
    num_classes: int | None,
    layers: Sequence[AbstractSet[str]] = (),
    depths: Sequence[int] = (),
) -> int | None:
    """Which of a model's outputs the loss will be given, as far as can be seen.

    Of those that can be logits, ``[N, K]`` or with time: of the right width where K is known, and
    else of more than one class, which a critic's value has not, and of no further use to other
    such outputs, which the classifier's feature is. Of several as wide as the first of them, such
    as a network's exits, the deepest, and the first of those as deep. Depth counts spiking layers,
    where heads sit: the classifier of a helper may have more layers than the network's own.

    Args:
        outputs: The tensors of the output.
        num_classes: Class count, where known.
        layers: For each of them, the layers with weights that it depends on, where known.
        depths: For each of them, how many spiking layers it depends on, where known.
    """
    bare = [without_ones(tuple(output.shape)) for output in outputs]
    fits = [i for i, shape in enumerate(bare) if _fits(shape)]
    exact = [i for i in fits if bare[i][-1] == num_classes]
    # A value at every time step, [T, N, 1], is no [N, K] with an axis to spare.
    value = [output.ndim < 4 and output.shape[-1:] == (1,) for output in outputs]
    wide = [i for i in fits if bare[i][-1] > 1 and not value[i]]

    def feeds_another(i: int) -> bool:
        return any(is_before(i, j) for j in wide if bare[i] != bare[j])

    def is_before(i: int, j: int) -> bool:
        # Features gathered over a loop lead nowhere, but the logits have all their layers.
        less = bool(layers and layers[i]) and layers[i] < layers[j]
        return less or _feeds(outputs[i], outputs[j])

    ends = [i for i in wide if not feeds_another(i)]
    found = exact or ends or wide or fits
    if not found:
        return 0 if outputs else None
    alike = [i for i in found if bare[i][-1] == bare[found[0]][-1]]
    return max(alike, key=lambda i: depths[i]) if depths else alike[0]


def class_logits(outputs: Sequence[Tensor], main: int | None) -> list[int]:
    """The outputs that have classes like the main one, which is among them, as exits have.

    Args:
        outputs: The tensors of the output.
        main: What :func:`main_output` said of them.
    """
    if main is None:
        return []
    bare = [without_ones(tuple(output.shape)) for output in outputs]
    width = bare[main][-1:]
    return [i for i, shape in enumerate(bare) if i == main or _fits(shape) and shape[-1:] == width]


def _fits(bare: tuple[int, ...]) -> bool:
    return len(bare) in (2, 3)


def _feeds(one: Tensor, other: Tensor) -> bool:
    """Whether an output is computed from another one."""
    if not (one.requires_grad and other.requires_grad):
        return False
    found = torch.autograd.grad(other.sum(), one, retain_graph=True, allow_unused=True)
    return found[0] is not None


def why_no_classes(
    shape: tuple[int, ...],
    *,
    positions: bool,
    scalars: bool = False,
    steps: bool = True,
    as_steps: bool = False,
) -> str:
    """Why an output of this shape has no class logits; empty if it may have.

    Args:
        shape: Of the output.
        positions: Whether one of its axes runs over positions, neither batch nor time.
        scalars: Whether it holds one number a sample and time step.
        steps: Whether any spiking layer ran several time steps.
        as_steps: Whether its last axis has an entry for each of them.
    """
    bare = without_ones(shape)
    if not bare:
        return (
            f"the model's output is a scalar, one number for the whole batch. {_NEED}. If it is a "
            "loss, wrap the model inside that gives the logits."
        )
    if len(bare) == 1 or scalars:
        return (
            f"the model's output {list(shape)} is a scalar a sample, as in regression. {_NEED}. "
            "Logits of a single class must be [N, 1]."
        )
    if len(bare) > 3:
        return (
            f"the model's output {list(shape)} is a map of values, a dense prediction as for "
            f"segmentation or detection (one a pixel). {_NEED}."
        )
    if positions:
        return (
            f"the model's output {list(shape)} has one row a position or token, a per-position "
            f"(dense) prediction, not one a sample. {_NEED}."
            + ("" if steps else _STEP_MODE)
            + (_TIME_LAST if as_steps else "")
        )
    return ""


def read_num_classes(model: nn.Module, neuron_types: tuple[type, ...] = ()) -> int | None:
    """Class count from the last layers of a model; ``None`` where they do not tell.

    The last Linear (or convolution) tells, divided by the ``voting_size`` of a voting layer behind
    it, or by the width of a pool over classes; neurons, norms, dropout and reshaping in between
    change nothing.
    """
    votes = 1
    for module in reversed(_leaves(model, neuron_types)):
        if size := _votes(module):
            votes *= size
        elif isinstance(module, WEIGHT_LAYERS):
            width = getattr(module, "out_features", getattr(module, "out_channels", 0))
            return int(width) // votes
        elif not (is_spiking_neuron(module, neuron_types) or _passes_classes(module)):
            return None
    return None


def _leaves(module: nn.Module, neuron_types: tuple[type, ...]) -> list[nn.Module]:
    children = list(module.children())
    if not children or is_spiking_neuron(module, neuron_types):
        return [module]
    return [leaf for child in children for leaf in _leaves(child, neuron_types)]


def _votes(module: nn.Module) -> int:
    """How many entries of its input a voting layer averages into one; 0 of any other module."""
    size = getattr(module, "voting_size", None)
    if isinstance(module, nn.AvgPool1d):
        kernel = module.kernel_size
        size = kernel[0] if isinstance(kernel, tuple) else kernel
    return size if isinstance(size, int) else 0


def _passes_classes(module: nn.Module) -> bool:
    # SpikingJelly's own dropout derives from none of PyTorch's.
    return isinstance(module, _PASS_CLASSES) or type(module).__name__.startswith("Dropout")


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
)
