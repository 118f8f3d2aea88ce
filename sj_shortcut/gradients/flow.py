"""One-shot measurement of the gradient of every layer, on one or several batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from sj_shortcut.gradients.columns import (
    Row,
    WeightMeasure,
    activity_columns,
    bare_model,
    by_depth,
    check_tags,
    depth_of,
    make_frame,
    measure_weights,
    quantities,
)
from sj_shortcut.gradients.firing import NAN, Fetcher, activities, ask_for
from sj_shortcut.gradients.tracer import Tracer
from sj_shortcut.neurons.memory import reset_states
from sj_shortcut.places.example_pass import first_tensor
from sj_shortcut.places.read_modules import find_loop, step_mode_of
from sj_shortcut.shortcuts.branch import ShortcutBranch
from sj_shortcut.shortcuts.loss import ShortcutLoss
from sj_shortcut.torch_model.norms import joint_norm, wide_dtype
from sj_shortcut.torch_model.preserve import preserved

Forward = Callable[[nn.Module, Any], Tensor]
Grads = dict[str, list[Tensor | None]]

# Of 1000 draws of random directions, one has a mean pairwise cosine above this many of its
# standard deviations.
_QUANTILE = 3.09
# Worst first: what a row over several batches says.
_STATUSES = ("nonfinite", "frozen", "none", "ok", "zero")
# Rounding errors of a gradient in single precision stay below this part of it.
_ROUNDING = 1e-5


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
    whatever the number of batches.

    Args:
        model: The model, wrapped or not; in DistributedDataParallel or compiled, the original
            inside it is measured, in this process alone.
        loss_fn: Any criterion ``(output, y) -> loss``, :class:`ShortcutLoss` included.
        batches: One ``(x, y)``, or an iterable of them. Tensors are moved to the model's device.
            In step mode 's', x is ``[T, N, ...]`` and the model is called once a time step.
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
    flow = _Flow(bare, loss_fn, forward, tracer, by_source, per_step)
    kept = [module for module in (bare, loss_fn) if isinstance(module, nn.Module)]
    with preserved(*kept), torch.enable_grad(), torch.compiler.set_stance("force_eager"):
        if not bare.training:
            bare.train()
        if isinstance(loss_fn, ShortcutLoss):
            # A schedule may learn from each loss; what is measured here is not training.
            loss_fn.schedule = copy.deepcopy(loss_fn.schedule)
        try:
            tracer.watch()
            for x, y in _pairs(batches):
                flow.measure(x, y)
        finally:
            tracer.unwatch()
    return make_frame([{**tags, **row} for row in flow.rows()], list(tags))


@dataclass
class _Sums:
    """Running sums over batches of one layer's gradient from one source.

    Attributes:
        norms: Norm of the gradient of each batch so far.
        directions: Sum of the gradients scaled to length 1.
        total: Sum of the gradients.
    """

    norms: list[float] = field(default_factory=list)
    directions: list[Tensor] = field(default_factory=list)
    total: list[Tensor] = field(default_factory=list)

    def add(self, grads: Sequence[Tensor | None], norm: float) -> None:
        """Add the gradient of one batch; none counts as 0."""
        present = [grad for grad in grads if grad is not None]
        self.norms.append(norm if present else 0.0)
        if not (present and norm):
            return
        if not self.total:
            self.total = [_zeros_like(grad) for grad in present]
            self.directions = [_zeros_like(grad) for grad in present]
        for grad, total, direction in zip(present, self.total, self.directions, strict=True):
            total += grad
            direction += grad.to(direction.dtype) / norm

    def coherence(self) -> float:
        """Mean pairwise cosine of the gradients that are not 0."""
        n = sum(norm != 0 for norm in self.norms)
        if n < 2 or not self.directions:
            return NAN
        return (float(joint_norm(self.directions)) ** 2 - n) / (n * (n - 1))

    def floor(self, dimensions: int) -> float:
        """What the coherence of random directions stays below."""
        n = sum(norm != 0 for norm in self.norms)
        return _QUANTILE * math.sqrt(2 / (n * (n - 1) * dimensions)) if n > 1 else NAN

    def snr(self) -> float:
        """Squared length of the mean over the variance."""
        n = len(self.norms)
        if n < 2 or not self.total:
            return NAN
        squares = math.fsum(norm**2 for norm in self.norms)
        signal = (float(joint_norm(self.total)) ** 2 - squares) / (n * (n - 1))
        noise = squares / n - signal
        return max(signal, 0.0) / noise if noise > 0 else math.inf


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
    ) -> None:
        self.model = model
        self.loss_fn = loss_fn
        self.forward = forward
        self.tracer = tracer
        self.by_source = by_source
        self.per_step = per_step
        self.batches = 0
        self.sums: dict[tuple[str, str], _Sums] = {}
        self.measured: dict[tuple[str, str, int], list[Row]] = {}

    def measure(self, x: Any, y: Any) -> None:
        """Measure one batch."""
        device = next(self.model.parameters()).device
        reset_states(self.model)
        output = self._output(_to(x, device))
        loss = self.loss_fn(output, _to(y, device))
        _check_loss(loss)
        for source, grads, whole in self._sources(loss, output):
            self._note(source, grads, whole)
            self.tracer.forget_gradients()
        self.tracer.forget()
        self.batches += 1

    def _output(self, x: Any) -> Any:
        if self.forward is not None:
            return self.forward(self.model, x)
        each_step = _called_each_step(self.model, self.tracer.neurons)
        averaged = not getattr(self.loss_fn, "per_step", False)
        return _run(self.model, x, each_step, averaged)

    def _sources(self, loss: Tensor, output: Any) -> Iterator[tuple[str, Grads, Grads | None]]:
        """Name and gradients of each source, and the gradients of all of them together."""
        whole = self._gradients(loss, None)
        if not self.by_source:
            yield "", whole, None
            return
        rest = {name: list(grads) for name, grads in whole.items()}
        for source, root, grad in _ways(self.model, loss, output):
            self.tracer.forget_gradients()
            part = self._gradients(root, grad) if grad is not None else _nothing(whole)
            rest = {name: _difference(grads, part[name]) for name, grads in rest.items()}
            yield source, part, whole
        if _matters(rest, whole):
            self.tracer.forget_gradients()
            yield "other", rest, whole

    def _gradients(self, root: Tensor, grad: Tensor | None) -> Grads:
        """Gradients of all weights, going back from ``root`` with the gradient there."""
        layers = self.tracer.layers
        weights = {id(w): w for layer in layers for w in layer.weights if w.requires_grad}
        grads: Sequence[Tensor | None] = ()
        if weights:
            grads = torch.autograd.grad(
                root, list(weights.values()), grad, retain_graph=True, allow_unused=True
            )
        found = dict(zip(weights, grads, strict=True))
        return {layer.name: [found.get(id(w)) for w in layer.weights] for layer in layers}

    def _note(self, source: str, grads: Grads, whole: Grads | None) -> None:
        """Write down the rows of one source and one batch."""
        fetcher = Fetcher()
        measures: dict[str, WeightMeasure] = {}
        products: dict[str, tuple[Tensor | None, Tensor | None]] = {}
        for layer in self.tracer.layers:
            name = layer.name
            measures[name] = measure_weights(layer, grads[name])
            measures[name].ask_for(fetcher)
            ask_for(self.tracer.calls.get(name, ()), fetcher)
            if whole is not None:
                products[name] = _product(grads[name], whole[name]), _product(whole[name])
                for product in products[name]:
                    fetcher.add(product)
        fetcher.fetch()
        for name, measure in measures.items():
            row = measure.row(fetcher, depth_of(name, self.tracer.order))
            self.sums.setdefault((name, source), _Sums()).add(grads[name], row["weight_grad_norm"])
            calls = self.tracer.calls.get(name, ())
            for i, activity in enumerate(activities(calls, fetcher, self.per_step)):
                full = {**row, **activity_columns(activity, per_step=self.per_step)}
                if whole is not None:
                    full |= _share_columns(full, source, *map(fetcher.value, products[name]))
                self.measured.setdefault((name, source, i), []).append(full)

    def rows(self) -> list[Row]:
        """The rows of all batches together, in order of depth."""
        if not self.batches:
            raise ValueError("batches is empty: pass one (x, y), or an iterable of them.")
        rows = []
        for (name, source, _), measured in self.measured.items():
            row = {**_mean(measured), "batches": self.batches}
            if self.batches > 1:
                sums = self.sums[name, source]
                row["coherence"] = sums.coherence()
                row["coherence_floor"] = sums.floor(row["weights"])
                row["snr"] = sums.snr()
            rows.append(row)
        return sorted(rows, key=by_depth)


def _mean(rows: Sequence[Row]) -> Row:
    """Mean of each number over rows that are alike but for their numbers."""
    row = dict(rows[0])
    for name, value in row.items():
        if isinstance(value, float):
            row[name] = math.fsum(r[name] for r in rows) / len(rows)
    row["status"] = min((r["status"] for r in rows), key=_STATUSES.index)
    return row


def _share_columns(row: Row, source: str, along: float, square: float) -> Row:
    """The columns of one source, given its product with the whole gradient, and that squared."""
    if math.isnan(square) or row["status"] not in ("none", "frozen"):
        return {"source": source, "share": along / square if square else NAN}
    norms = ["weight_grad_norm", "weight_grad_rms", "grad_to_weight"]
    return {"source": source, "share": 0.0, **dict.fromkeys(norms, 0.0)}


def _ways(
    model: nn.Module, loss: Tensor, output: Any
) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Where the loss enters the network: each place's name, tensor, and gradient of the loss."""
    ends = {"main": first_tensor(output)}
    for branch in model.modules():
        if isinstance(branch, ShortcutBranch):
            ends[branch.name] = branch.total
    used = {name: end for name, end in ends.items() if end is not None and end.requires_grad}
    grads = torch.autograd.grad(loss, list(used.values()), retain_graph=True, allow_unused=True)
    for (name, end), grad in zip(used.items(), grads, strict=True):
        yield name, end, grad


def _nothing(like: Grads) -> Grads:
    return {name: [None] * len(grads) for name, grads in like.items()}


def _difference(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> list[Tensor | None]:
    pairs = zip(a, b, strict=True)
    return [x if x is None or y is None else x - y for x, y in pairs]


def _matters(rest: Grads, whole: Grads) -> bool:
    """Whether the rest of any layer's gradient is more than rounding errors."""
    for name, grads in rest.items():
        left = [grad for grad in grads if grad is not None]
        full = [grad for grad in whole[name] if grad is not None]
        if left and bool(joint_norm(left) > _ROUNDING * joint_norm(full)):
            return True
    return False


def _product(a: Sequence[Tensor | None], b: Sequence[Tensor | None] | None = None) -> Tensor | None:
    """Inner product of two gradients, of ``a`` with itself by default; ``None`` without any."""
    pairs = zip(a, a if b is None else b, strict=True)
    products = [
        (x.detach() * y.detach()).sum(dtype=wide_dtype(x))
        for x, y in pairs
        if x is not None and y is not None
    ]
    return torch.stack(products).sum() if products else None


def _zeros_like(grad: Tensor) -> Tensor:
    half = grad.dtype in (torch.float16, torch.bfloat16)
    return torch.zeros_like(grad, dtype=torch.float32 if half else None)


def _run(model: nn.Module, x: Any, each_step: bool, averaged: bool) -> Any:
    """The model's output, averaged over time where it has a time axis."""
    if each_step:
        if not isinstance(x, Tensor) or x.ndim < 2:
            raise ValueError(
                "in step mode 's' x must be a tensor [T, N, ...], over whose first axis the model "
                "is called. Otherwise say with forward= how to get from (model, x) to the output."
            )
        output = torch.stack([model(step) for step in x])
    else:
        output = model(*x) if isinstance(x, tuple) else model(x)
    timed = isinstance(output, Tensor) and output.ndim == 3
    return output.mean(0) if timed and averaged else output


def _called_each_step(model: nn.Module, neurons: Mapping[nn.Module, str]) -> bool:
    """Whether one call of the model runs one time step."""
    for module, name in neurons.items():
        if getattr(module, "step_mode", "m") == "s":
            loop = find_loop(model, name)
            if loop is None or step_mode_of(model.get_submodule(loop)) == "s":
                return True
    return False


def _pairs(batches: Any) -> Iterator[tuple[Any, Any]]:
    """The batches one by one, be they one pair or an iterable of pairs."""
    if isinstance(batches, tuple | list) and len(batches) == 2 and isinstance(batches[0], Tensor):
        batches = [batches]
    if not isinstance(batches, Iterable) or isinstance(batches, Tensor):
        raise TypeError(
            f"batches must be one (x, y), or an iterable of them, got {type(batches).__name__}."
        )
    for i, batch in enumerate(batches):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(
                f"batch {i} must be a pair (x, y), got {type(batch).__name__}"
                f"{f' of {len(batch)}' if isinstance(batch, tuple | list) else ''}."
            )
        yield batch[0], batch[1]


def _to(data: Any, device: torch.device) -> Any:
    if isinstance(data, tuple):
        return tuple(_to(item, device) for item in data)
    return data.to(device) if isinstance(data, Tensor) else data


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
        what = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(
            "loss_fn(output, y) must return a scalar tensor that depends on the weights, got "
            f"{what}{' without a graph' if isinstance(loss, Tensor) and not loss.ndim else ''}."
        )
