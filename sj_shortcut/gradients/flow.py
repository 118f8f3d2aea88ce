"""Measure the gradient of every layer once, on one or several batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from sj_shortcut.gradients.coherence import GradientSums, batch_columns
from sj_shortcut.gradients.columns import COLUMNS, Row, by_depth, check_tags, depth_of, make_frame
from sj_shortcut.gradients.fetcher import Fetcher
from sj_shortcut.gradients.firing import ask_for, firing_rows
from sj_shortcut.gradients.run_model import (
    Forward,
    as_in_training,
    checked_loss,
    is_single,
    moved_to,
    output_of,
    pairs,
)
from sj_shortcut.gradients.sources import Gradients, inner_product, share_columns, split_by_source
from sj_shortcut.gradients.spikes import quantities
from sj_shortcut.gradients.tracer import Tracer
from sj_shortcut.gradients.weights import WeightMeasure, measure_weights
from sj_shortcut.neurons.memory import reset_states
from sj_shortcut.torch_model import bare_model, map_tensors

__all__ = ["gradient_flow"]

# Worst first: what a row over several batches says.
_STATUSES = ("nonfinite", "frozen", "none", "ok", "zero")


def gradient_flow(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batches: Any,
    *,
    by_source: bool = False,
    activity: bool | Collection[str] = True,
    per_step: bool = False,
    alive_threshold: float = 0.1,
    neuron_types: tuple[type, ...] = (),
    forward: Forward | None = None,
    **tags: Any,
) -> pd.DataFrame:
    r"""Measure the gradient of every layer, and leave the model as it was.

    Runs forward and backward in training mode (where the model is in eval mode it is put in
    training mode meanwhile) from reset neurons, for each batch. Weights, their ``grad``, BN
    statistics, neuron states, training flags, the state of ``loss_fn`` and torch's random numbers
    are afterwards what they were, errors included.

    The columns are those of :class:`GradientRecorder`, but for ``step`` and ``rank``, each the
    mean over the batches of its value for one batch (``status`` the worst), and

    - ``batches``: number of batches n; with more than one
    - ``coherence``: mean pairwise cosine of the layer's gradients :math:`g_i` of the batches, 1 if
      all point the same way, about 0 if they have nothing in common:
      :math:`\big(|\sum_i g_i/|g_i||^2 - n\big) / \big(n(n-1)\big)`, over batches with a gradient.
      That gradients of deep networks come to resemble noise is the theme of Balduzzi et al.,
      "The Shattered Gradients Problem" (ICML 2017);
    - ``coherence_floor``: what random directions in as many dimensions d as there are weights
      stay below in 999 of 1000 draws, :math:`3.09 \sqrt{2 / (n(n-1)d)}`;
    - ``snr``: signal-to-noise ratio :math:`|\mu|^2 / \mathrm{tr}\,\Sigma` of the gradient of a
      batch, the squared length of its mean over its variance, as in Liu et al., "Understanding
      Why Neural Networks Generalize Well Through GSNR of Parameters" (ICLR 2020), but for the
      layer as a whole, and with the unbiased estimate of :math:`|\mu|^2`, cut off at 0;
    - with ``by_source``, one row a layer and source: ``source``, ``"main"`` for what reaches the
      layer through the model's output, and the name of the tapped module for what reaches it
      through that head (and ``"other"`` for what takes neither way, such as a penalty on weights,
      if there is any). As vectors they add up to the layer's gradient. ``share``: the source's
      component along the whole gradient, as a share of it,
      :math:`\langle g_s, g\rangle / |g|^2`; the shares of a layer add up to 1 and may be
      negative. A source that does not reach a layer has share 0, the norms of its weight's
      gradient are 0, and its status is "none".

    Coherence and SNR are computed from running sums: two copies of the gradients (of each source)
    whatever the number of batches, and none where it is one ``(x, y)``.

    ``by_source`` goes back from each head by itself, through the part of the network under it: with
    heads evenly spaced half a backward pass a head. They cannot be had in one pass, as each layer
    has another gradient from each head.

    Args:
        model: The model, wrapped or not; in DistributedDataParallel or compiled, the original
            inside it is measured, in this process alone.
        loss_fn: Any criterion ``(output, y) -> loss``, :class:`ShortcutLoss` included.
        batches: One ``(x, y)``, or an iterable of them. Tensors are moved to the model's device.
            The model is called once with x, or with each step of an x ``[T, N, ...]`` where one
            call of the model is one time step.
        by_source: Whether to split the gradient by the heads it comes from. A model without heads
            has ``"main"`` only.
        activity: What to measure of spiking layers, see :class:`GradientRecorder`.
        per_step: Whether to tell their time steps apart.
        alive_threshold: See :class:`GradientRecorder`.
        neuron_types: Your own spiking neuron classes, if they do not derive from SpikingJelly's.
        forward: How to get from ``(model, x)`` to what ``loss_fn`` takes. By default the model's
            output, averaged over time where it is ``[T, N, K]``, but for a ``loss_fn`` with
            ``per_step=True``.
        **tags: Columns of your own, such as ``run="vanilla"``.

    Returns:
        One row a layer, source and time step, in order of depth.

    Raises:
        TypeError: If an argument has the wrong type, or parameters are sharded.
        ValueError: If there is no batch or no layer with weights, if a batch is no pair, the loss
            no scalar that depends on the weights, or a tag has the name of a column.

    Example:
        >>> from spikingjelly.activation_based import layer, neuron
        >>> model = nn.Sequential(layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 2))
        >>> batches = [(5 * torch.rand(4, 3, 8), torch.tensor([0, 1, 0])) for _ in range(5)]
        >>> frame = gradient_flow(model, nn.CrossEntropyLoss(), batches, run="vanilla")
        >>> frame[["run", "layer", "depth", "module", "batches"]]
               run layer  depth  module  batches
        0  vanilla     0      1  Linear        5
        1  vanilla     2      2  Linear        5
        >>> bool(frame.coherence.between(-1, 1).all())
        True
    """
    bare, _ = bare_model(model)
    check_tags(tags)
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be callable as loss_fn(output, y), got {loss_fn!r}.")
    tracer = Tracer(
        bare,
        quantities(activity),
        per_step=per_step,
        alive_threshold=alive_threshold,
        neuron_types=neuron_types,
    )
    if not tracer.layers:
        raise ValueError(f"{type(bare).__name__} has no layer with weights to measure.")
    flow = _Flow(bare, loss_fn, forward, tracer, by_source, per_step, neuron_types)
    flow.sums_up = not is_single(batches)
    with as_in_training(bare, loss_fn):
        try:
            tracer.watch()
            for x, y in pairs(batches):
                flow.measure(x, y)
        finally:
            tracer.unwatch()
    return make_frame([{**tags, **row} for row in flow.rows()], list(tags))


class _Flow:
    """The measurement of batch after batch."""

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        forward: Forward | None,
        tracer: Tracer,
        by_source: bool,
        per_step: bool,
        neuron_types: tuple[type, ...],
    ) -> None:
        self.model = model
        self.neuron_types = neuron_types
        self.loss_fn = loss_fn
        self.forward = forward
        self.tracer = tracer
        self.by_source = by_source
        self.per_step = per_step
        self.sums_up = True
        self.batches = 0
        self.sums: dict[tuple[str, str], GradientSums] = {}
        self.measured: dict[tuple[str, str, int], list[Row]] = {}

    def measure(self, x: Any, y: Any) -> None:
        """Measure one batch."""
        device = next(self.model.parameters()).device
        reset_states(self.model)
        x, y = moved_to(x, device), moved_to(y, device)
        x = map_tensors(x, Tensor.clone)  # a model may change in place what it is given
        output = output_of(self.model, x, y, self.loss_fn, self.forward, self.neuron_types)
        loss = checked_loss(self.loss_fn(output, y))
        whole = self._gradients([loss], None)
        squares: dict[str, Tensor | None] = {}
        if self.by_source:
            squares = {name: inner_product(grads, grads) for name, grads in whole.items()}
        for source, grads in self._sources(loss, output, whole):
            self._note(source, grads, whole, squares)
            self.tracer.forget_gradients()
        self.tracer.forget()
        self.batches += 1

    def _sources(
        self, loss: Tensor, output: Any, whole: Gradients
    ) -> Iterator[tuple[str, Gradients]]:
        """Name and gradients of each source."""
        if not self.by_source:
            yield "", whole
            return
        self.tracer.forget_gradients()
        yield from split_by_source(loss, output, whole, self._gradients)

    def _gradients(self, ends: Sequence[Tensor], at: Sequence[Tensor] | None) -> Gradients:
        """Gradients of all weights, going back from ``ends`` with the gradients there."""
        layers = self.tracer.layers
        weights = {id(w): w for layer in layers for w in layer.weights if w.requires_grad}
        grads: Sequence[Tensor | None] = ()
        if weights:
            grads = torch.autograd.grad(
                ends, list(weights.values()), at, retain_graph=True, allow_unused=True
            )
        found = dict(zip(weights, grads, strict=True))
        return {layer.name: [found.get(id(w)) for w in layer.weights] for layer in layers}

    def _note(
        self,
        source: str,
        grads: Gradients,
        whole: Gradients,
        squares: Mapping[str, Tensor | None],
    ) -> None:
        """Write down the rows of one source and one batch.

        Args:
            source: Its name; empty for all together.
            grads: Its gradients.
            whole: Those of all sources together.
            squares: For each layer the inner product of these with themselves, to give shares of.
        """
        fetcher, calls = Fetcher(), self.tracer.calls
        measures: dict[str, WeightMeasure] = {}
        along: dict[str, Tensor | None] = {}
        for layer in self.tracer.layers:
            name, own = layer.name, grads[layer.name]
            measures[name] = measure_weights(layer, own)
            measures[name].ask_for(fetcher)
            ask_for(calls.get(name, ()), fetcher)
            if squares:
                along[name] = inner_product(own, whole[name])
                fetcher.add(along[name])
                fetcher.add(squares[name])
        fetcher.fetch()
        for name, measure in measures.items():
            row = measure.row(fetcher, depth_of(name, self.tracer.order))
            sums = self.sums.setdefault((name, source), GradientSums(measure.count))
            if self.sums_up:
                sums.add(grads[name], row["weight_grad_norm"])
            for i, columns in enumerate(firing_rows(calls.get(name, ()), fetcher, self.per_step)):
                full = {**row, **columns}
                if squares:
                    values = fetcher.value(along[name]), fetcher.value(squares[name])
                    full |= share_columns(full, source, *values)
                self.measured.setdefault((name, source, i), []).append(full)

    def rows(self) -> list[Row]:
        """The rows of all batches together, in order of depth."""
        if not self.batches:
            raise ValueError("batches is empty: pass one (x, y), or an iterable of them.")
        rows = [
            {**_mean(rows), "batches": self.batches, **batch_columns(self.sums[name, source])}
            for (name, source, _), rows in self.measured.items()
        ]
        return sorted(rows, key=by_depth)


def _mean(rows: Sequence[Row]) -> Row:
    """Mean of each number over rows that are alike but for their numbers."""
    row = dict(rows[0])
    for name, column in COLUMNS.items():
        if column.measured and name in row:
            row[name] = math.fsum(r[name] for r in rows) / len(rows)
    row["status"] = min((r["status"] for r in rows), key=_STATUSES.index)
    return row
