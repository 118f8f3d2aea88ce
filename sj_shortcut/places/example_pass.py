"""Run one forward pass to see what a model does, and leave no trace of having done so."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from spikingjelly.activation_based import base
from torch import Tensor, nn
from torch.utils import _pytree

from sj_shortcut.torch_model.preserve import preserved


@dataclass
class Sighting:
    """What a module did in the forward pass.

    Attributes:
        module: The module.
        weights_before: Layers with weights that had run when it started.
        calls: How often it was called.
        shape: Shape of its output; ``None`` if that is not one tensor.
        kind: Class name of its output.
    """

    module: nn.Module
    weights_before: int
    calls: int = 1
    shape: tuple[int, ...] | None = None
    kind: str = ""


def run_probe(
    model: nn.Module, example_input: Any, weight_layers: tuple[type, ...]
) -> tuple[dict[str, Sighting], int | None]:
    """Run ``model`` on ``example_input`` in eval mode and write down what happened.

    Args:
        model: The model; left exactly as it was, BN statistics, neuron states and RNG included.
        example_input: What the model takes: a tensor, or a tuple of positional arguments.
        weight_layers: The classes that count as layers with weights.

    Returns:
        The sightings by module name, in the order in which the modules finished; and the size of
        the last axis of the model's output, ``None`` if it has no tensor.

    Raises:
        ValueError: If the model cannot run on the example.
    """
    names = {module: name for name, module in model.named_modules()}
    # Models in other threads share surrogate functions with this one, and so their hooks.
    thread = threading.get_ident()
    started: dict[str, int] = {}
    sightings: dict[str, Sighting] = {}

    def before(module: nn.Module, args: Any) -> None:
        if threading.get_ident() != thread:
            return
        ran = sum(isinstance(seen.module, weight_layers) for seen in sightings.values())
        started.setdefault(names[module], ran)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() != thread:
            return
        name = names[module]
        calls = sightings.pop(name).calls + 1 if name in sightings else 1
        shape = tuple(output.shape) if isinstance(output, Tensor) else None
        sightings[name] = Sighting(module, started[name], calls, shape, type(output).__name__)

    args = example_input if isinstance(example_input, tuple) else (example_input,)
    with _untouched(model):
        try:
            for module in names:
                module.register_forward_pre_hook(before)
                module.register_forward_hook(after)
            output = model(*args)
        except Exception as error:
            raise ValueError(
                f"example_input could not be run through {type(model).__name__}: "
                f"{type(error).__name__}: {error}. Pass what the model's forward takes, "
                "[T, N, ...] in step mode 'm', [N, ...] in step mode 's'."
            ) from error
    tensor = first_tensor(output)
    return sightings, None if tensor is None or tensor.ndim == 0 else int(tensor.shape[-1])


def first_tensor(output: Any) -> Tensor | None:
    """First tensor in a nest of tuples, lists and dicts."""
    leaves = _pytree.tree_leaves(output)
    return next((leaf for leaf in leaves if isinstance(leaf, Tensor)), None)


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients and with fresh neurons; everything is put back after."""
    gradients = torch.is_grad_enabled()
    try:
        with preserved(model), torch.no_grad():
            model.eval()
            for module in model.modules():
                if isinstance(module, base.MemoryModule):
                    module._memories.update(copy.deepcopy(module._memories_rv))
            yield
    except BaseException:
        torch.set_grad_enabled(gradients)  # an interrupt may come right where no_grad ends
        raise
