"""Measure the distribution of one layer's gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from sj_shortcut.gradients.columns import TAGS, depth_of
from sj_shortcut.gradients.run_model import (
    Forward,
    as_in_training,
    checked_loss,
    moved_to,
    output_of,
    pairs,
)
from sj_shortcut.gradients.tracer import Tracer
from sj_shortcut.gradients.weights import WeightLayer
from sj_shortcut.neurons.memory import reset_states
from sj_shortcut.torch_model.checks import did_you_mean
from sj_shortcut.torch_model.wrappers import bare_model

__all__ = ["gradient_histogram"]

_OWN = ("layer", "depth", "module", "weights", "batches", "low", "high", "count")


def gradient_histogram(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batches: Any,
    *,
    layer: str | None = None,
    bins_per_decade: int = 25,
    forward: Forward | None = None,
    neuron_types: tuple[type, ...] = (),
    **tags: Any,
) -> pd.DataFrame:
    r"""Count the gradients of one layer's weights by their size, and leave the model as it was.

    Runs forward and backward in training mode for each batch, as :func:`gradient_flow` does, and
    puts every single gradient of the layer's weights (the bias aside) into a bin. The edges are
    :math:`\pm 10^{k/b}` with b ``bins_per_decade``, always: gradients that differ by orders of
    magnitude are told apart, and histograms of several models, epochs and seeds have the same bins.
    :func:`plot_gradient_histogram` draws them.

    Args:
        model: The model, wrapped or not; in DistributedDataParallel or compiled, the original
            inside it is measured, in this process alone.
        loss_fn: Any criterion ``(output, y) -> loss``, :class:`ShortcutLoss` included.
        batches: One ``(x, y)``, or an iterable of them, as in :func:`gradient_flow`. A gradient is
            that of the loss of a batch, and each batch adds as many as the layer has weights.
        layer: Dotted name of a layer with weights (linear or convolution); default the first to
            run.
        bins_per_decade: Bins between a gradient and one ten times as large.
        forward: How to get from ``(model, x)`` to what ``loss_fn`` takes, see
            :func:`gradient_flow`.
        neuron_types: Your own spiking neuron classes, if they do not derive from SpikingJelly's.
        **tags: Columns of your own, such as ``run="vanilla"``.

    Returns:
        One row a bin that is not empty, from the most negative gradients to the largest: your tags,
        ``layer``, ``depth``, ``module``, ``weights`` and ``batches`` as in :func:`gradient_flow`;
        ``low`` and ``high``, the edges, in the units of the loss over those of the weights; and
        ``count``, how many gradients lie between. Those that are exactly 0 have a bin of their own,
        where both edges are 0.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If there is no such layer, no gradient of it, or one that is not finite, if
            there is no batch, or a tag has the name of a column.

    Example:
        >>> from spikingjelly.activation_based import layer, neuron
        >>> model = nn.Sequential(layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 2))
        >>> batches = [(5 * torch.rand(4, 3, 8), torch.tensor([0, 1, 0])) for _ in range(5)]
        >>> frame = gradient_histogram(model, nn.CrossEntropyLoss(), batches, run="vanilla")
        >>> frame["layer"].unique().tolist(), int(frame["count"].sum()) == 5 * 8 * 16
        (['0'], True)
    """
    bare, _ = bare_model(model)
    _check(loss_fn, bins_per_decade, tags)
    tracer = Tracer(bare, neuron_types=neuron_types)
    counts: Counter[int] = Counter()
    passes = 0
    with as_in_training(bare, loss_fn):
        try:
            tracer.watch()
            for x, y in pairs(batches):
                grads = _gradients(bare, loss_fn, x, y, tracer, layer, forward, neuron_types)
                counts.update(_bins(grads, bins_per_decade).tolist())
                tracer.forget()
                passes += 1
        finally:
            tracer.unwatch()
    if not passes:
        raise ValueError("batches is empty: pass one (x, y), or an iterable of them.")
    measured = _chosen(tracer, layer)
    facts = {
        **tags,
        "layer": measured.name,
        "depth": depth_of(measured.name, tracer.order),
        "module": type(measured.module).__name__,
        "weights": sum(weight.numel() for weight in measured.weights),
        "batches": passes,
    }
    rows = []
    for number in sorted(counts):
        low, high = _edges(number, bins_per_decade)
        rows.append({**facts, "low": low, "high": high, "count": counts[number]})
    frame = pd.DataFrame(rows)
    frame.attrs[TAGS] = list(tags)
    return frame


def _gradients(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    x: Any,
    y: Any,
    tracer: Tracer,
    layer: str | None,
    forward: Forward | None,
    neuron_types: tuple[type, ...],
) -> Tensor:
    """All gradients of the layer for one batch, in one row."""
    device = next(model.parameters()).device
    reset_states(model)
    x, y = moved_to(x, device), moved_to(y, device)
    loss = checked_loss(loss_fn(output_of(model, x, y, loss_fn, forward, neuron_types), y))
    measured = _chosen(tracer, layer)
    weights = [weight for weight in measured.weights if weight.requires_grad]
    if not weights:
        raise ValueError(f"the weights of '{measured.name}' are frozen: no gradient is asked for.")
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    grads = [grad for grad in found if grad is not None]
    if not grads:
        raise ValueError(
            f"no gradient arrives at '{measured.name}': the loss does not depend on it."
        )
    whole = torch.cat([grad.detach().double().reshape(-1).cpu() for grad in grads])
    if wrong := int((~whole.isfinite()).sum()):
        raise ValueError(
            f"{wrong} of {len(whole)} gradients of '{measured.name}' are not finite: lower the "
            "learning rate, clip gradients, or measure before."
        )
    return whole


def _chosen(tracer: Tracer, name: str | None) -> WeightLayer:
    """The layer of this name; the first of those that ran if there is none."""
    layers = {each.name: each for each in tracer.layers}
    if name is None:
        if not tracer.order:
            raise ValueError("no layer with weights (linear or convolution) has run.")
        return layers[tracer.order[0]]
    if name not in layers:
        raise ValueError(
            f"the model has no layer with weights (linear or convolution) called '{name}'."
            f"{did_you_mean(name, list(layers))}"
        )
    return layers[name]


def _check(loss_fn: Any, bins_per_decade: Any, tags: dict[str, Any]) -> None:
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be callable as loss_fn(output, y), got {loss_fn!r}.")
    if isinstance(bins_per_decade, bool) or not isinstance(bins_per_decade, int):
        raise TypeError(f"bins_per_decade must be an int, got {bins_per_decade!r}.")
    if bins_per_decade < 1:
        raise ValueError(f"bins_per_decade must be at least 1, got {bins_per_decade}.")
    if taken := [name for name in tags if name in _OWN]:
        raise ValueError(
            f"the tag '{taken[0]}' has the name of a column that is measured: call it another name."
        )


# Bins are numbered from the most negative gradients to the largest: 0 is that of exact zeros, and
# n > 0 that between the edges number n - 1 and n above a least one.

_LEAST = -45  # float32 has nothing smaller but 0


def _bins(grads: Tensor, per_decade: int) -> Tensor:
    """The number of the bin of each gradient."""
    size = grads.abs()
    steps = (size.clamp(min=10.0**_LEAST).log10() - _LEAST) * per_decade
    return torch.where(size > 0, steps.floor() + 1, 0).mul(grads.sign()).long()


def _edges(number: int, per_decade: int) -> tuple[float, float]:
    """Where a bin begins and ends."""
    if not number:
        return 0.0, 0.0
    size = abs(number)
    inner, outer = (10 ** (_LEAST + n / per_decade) for n in (size - 1, size))
    return (inner, outer) if number > 0 else (-outer, -inner)
