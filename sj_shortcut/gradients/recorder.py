"""Record the gradient of every layer while a model trains."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection
from typing import Any

import pandas as pd
import torch
from torch import nn

from sj_shortcut.gradients.columns import Row, by_depth, check_tags, depth_of, make_frame
from sj_shortcut.gradients.fetcher import Fetcher
from sj_shortcut.gradients.firing import ask_for, firing_rows
from sj_shortcut.gradients.spikes import quantities
from sj_shortcut.gradients.tracer import Tracer
from sj_shortcut.gradients.weights import WeightMeasure, measure_weights, refuse_sharded
from sj_shortcut.gradients.when import When, as_predicate
from sj_shortcut.torch_model.preserve import preserved
from sj_shortcut.torch_model.ranks import rank
from sj_shortcut.torch_model.warnings import ShortcutWarning
from sj_shortcut.torch_model.wrappers import bare_model, find_compiled

__all__ = ["GradientRecorder"]


class GradientRecorder:
    """Records the gradient of every layer while an ordinary training loop runs.

    Call :meth:`step` after ``loss.backward()`` and before the optimizer changes or clears
    anything. Hooks are on the model only for steps that are measured: the others cost nothing.
    Training goes on bit for bit as without it.

    What is measured of a layer with weights (linear or convolution; shortcut heads are left out)
    is read off ``p.grad``, so that accumulated gradients are measured as they are. What is
    measured of the spiking layer it feeds, the first to run after it, covers all forward passes
    since the last :meth:`step` that a gradient came back to.

    One row a layer, with the columns

    - your tags, and ``step``, the number of :meth:`step` calls before this one; ``rank`` with
      ``all_ranks``;
    - ``layer``: dotted name; ``depth``: place in the order of execution, from 1, NaN if it never
      ran; ``module``: class; ``weights``: number of weights, without the bias;
    - ``status``: ``"ok"``, ``"zero"`` (all zeros), ``"none"`` (no gradient arrived),
      ``"frozen"`` (none is asked for) or ``"nonfinite"``;
    - ``weight_grad_norm``: L2 norm of the weight's gradient, NaN where there is none;
      ``weight_grad_rms``: its root mean square; ``weight_norm``: L2 norm of the weight;
      ``grad_to_weight``: ratio of the two norms; ``zero_fraction``: share of gradient entries
      that are exactly 0, NaN where there is no gradient;
    - ``neuron``: dotted name of the spiking layer it feeds, empty if none;
      ``output_grad_norm``: L2 norm of the gradient at that layer's output, NaN where none
      arrived (neurons of 0.0.0.0.14 with ``detach_reset=False`` in step mode 's' include what
      comes back through their own reset); ``alive``: share of membrane potentials, over neurons,
      samples and time steps, where the derivative of the surrogate function is above
      ``alive_threshold``;
      ``firing_rate``: share of outputs that are not 0;
    - with ``per_step``, one row a layer and time step: ``t``, from 0, and the three columns
      before for that time step. The columns of the weights are the same at every ``t``, and a
      layer that feeds no spiking layer has one row, at 0.

    ``alive`` is NaN where a neuron does not show its potentials: the CuPy kernels of SpikingJelly
    0.0.0.0.14 and neurons in eval mode there, and neurons without a surrogate function that is a
    module.

    Args:
        model: The model, bare or in DistributedDataParallel. There, weights show the gradient
            averaged over all processes, spiking layers the one of this process. A model compiled
            with ``torch.compile(model)`` needs ``activity=False``; one more forward pass, which
            leaves no trace, then shows the order of its layers.
        when: Every how many steps to measure, or a predicate of the step, such as
            :func:`every_steps` and :func:`log_spaced_steps` give.
        activity: Whether to measure spiking layers, or the names of the columns to measure, of
            ``"output_grad_norm"``, ``"alive"`` and ``"firing_rate"``; the others are NaN. With
            none, nothing is hooked once the order of the layers is known.
        per_step: Whether to tell their time steps apart.
        scale: Under mixed precision the factor on the loss, or what gives it when a step is
            measured: ``scale=scaler.get_scale``. Then call :meth:`step` before
            ``scaler.unscale_``. Gradients are divided by it.
        alive_threshold: The derivative from which on a membrane potential is alive. The default
            0.1 is a tenth of the peak of ``ATan()`` and of ``Sigmoid()``, which is 1.
        neuron_types: Your own spiking neuron classes, if they do not derive from SpikingJelly's.
        all_ranks: In distributed training, record in every process instead of in rank 0 only.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument has a wrong value, or the model has no layer with weights.

    Example:
        >>> from spikingjelly.activation_based import functional, layer, neuron
        >>> from sj_shortcut import every_steps
        >>> model = nn.Sequential(layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 2))
        >>> functional.set_step_mode(model, "m")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with GradientRecorder(model, when=every_steps(2)) as recorder:
        ...     for _ in range(4):
        ...         loss = model(5 * torch.rand(4, 3, 8)).mean(0).square().sum()
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         _ = recorder.step(run="demo")
        ...         optimizer.step()
        ...         functional.reset_net(model)
        >>> recorder.frame[["run", "step", "layer", "depth", "status"]]
            run  step layer  depth status
        0  demo     0     0      1     ok
        1  demo     0     2      2     ok
        2  demo     2     0      1     ok
        3  demo     2     2      2     ok
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        when: When = 1,
        activity: bool | Collection[str] = True,
        per_step: bool = False,
        scale: float | Callable[[], float] | None = None,
        alive_threshold: float = 0.1,
        neuron_types: tuple[type, ...] = (),
        all_ranks: bool = False,
    ) -> None:
        self._model, self._compiled = bare_model(model)
        measured = quantities(activity)
        if per_step and not measured:
            raise ValueError("per_step=True is about spiking layers, which activity=False leaves.")
        self._refuse_compiled(bool(measured))
        self._tracer = Tracer(
            self._model,
            measured,
            per_step=per_step,
            alive_threshold=alive_threshold,
            neuron_types=neuron_types,
        )
        if not self._tracer.layers:
            raise ValueError(
                f"{type(self._model).__name__} has no layer with weights (linear or convolution) "
                "whose gradient could be recorded."
            )
        self._when = as_predicate(when)
        self._per_step = per_step
        self._scale = scale
        self._all_ranks = all_ranks
        self._rows: list[Row] = []
        self._tags: dict[str, None] = {}
        self._index = self._before = 0
        self._entered = self._due = False
        self._order_handle: Any = None

    def __enter__(self) -> GradientRecorder:
        if self._entered:
            raise RuntimeError("this GradientRecorder is recording already: enter it once.")
        for one in self._tracer.layers:  # in every process: one that raised alone would hang others
            refuse_sharded(one)
        self._entered = True
        self._prepare()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._entered = self._due = False
        self._stop_watching()

    @property
    def frame(self) -> pd.DataFrame:
        """All rows so far; see the class for the columns."""
        return make_frame(self._rows, list(self._tags))

    @property
    def latest(self) -> pd.DataFrame:
        """The rows of the last step that was measured."""
        return make_frame(self._rows[self._before :], list(self._tags))

    @property
    def measures_next(self) -> bool:
        """Whether the next call of :meth:`step` measures."""
        return self._due

    def step(self, **tags: Any) -> bool:
        """Measure, if this step is due, after ``loss.backward()``.

        Args:
            **tags: Columns of your own for these rows, such as ``epoch=3, run="vanilla"``.

        Returns:
            Whether it measured.

        Raises:
            RuntimeError: If called outside the ``with`` block, or if no gradient or no forward
                pass is there to be measured.
            ValueError: If a tag has the name of a column, or the scale is not positive.
        """
        if not self._entered:
            raise RuntimeError("step() records inside `with GradientRecorder(model) as ...:` only.")
        check_tags(tags)
        due = self._due
        if due:
            self._tags.update(dict.fromkeys(tags))
            measured = self._measure(tags)
            self._before = len(self._rows)
            self._rows += measured
        self._index += 1
        self._prepare()
        return due

    def _prepare(self) -> None:
        """Hooks on for a step that is due, off for others."""
        tracer = self._tracer
        here = self._all_ranks or rank() == 0
        self._due = here and bool(self._when(self._index))
        if not self._due or (tracer.order and not tracer.measures_spikes):
            self._stop_watching()
        elif self._compiled is not None:
            self._watch_compiled(self._compiled)
        elif tracer.watching:
            tracer.forget()
        else:
            tracer.watch()

    def _stop_watching(self) -> None:
        self._tracer.unwatch()
        if self._order_handle is not None:
            self._order_handle.remove()
            self._order_handle = None

    def _watch_compiled(self, compiled: nn.Module) -> None:
        """Learn the order of the layers from a pass of the original on the first input."""

        def look(module: nn.Module, args: Any, kwargs: Any) -> None:
            if self._tracer.order:
                return
            self._tracer.watch()
            try:
                with preserved(self._model), torch.enable_grad():
                    self._model(*args, **kwargs)
            finally:
                self._tracer.unwatch()

        if self._order_handle is None:
            self._order_handle = compiled.register_forward_pre_hook(look, with_kwargs=True)

    def _measure(self, tags: dict[str, Any]) -> list[Row]:
        tracer, scale = self._tracer, self._current_scale()
        measures = [
            measure_weights(layer, [weight.grad for weight in layer.weights])
            for layer in tracer.layers
        ]
        self._check_measurable(measures)
        fetcher = Fetcher()
        for measure in measures:
            measure.ask_for(fetcher)
            ask_for(tracer.calls.get(measure.layer.name, ()), fetcher)
        fetcher.fetch()
        self._warn_of_two_backwards()
        leading = {**tags, "step": self._index}
        if self._all_ranks:
            leading["rank"] = rank()
        rows = []
        for measure in measures:
            row = measure.row(fetcher, depth_of(measure.layer.name, tracer.order), scale)
            calls = tracer.calls.get(measure.layer.name, ())
            for columns in firing_rows(calls, fetcher, self._per_step, scale):
                rows.append({**leading, **row, **columns})
        return sorted(rows, key=by_depth)

    def _current_scale(self) -> float:
        scale = float(self._scale() if callable(self._scale) else self._scale or 1.0)
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale must be finite and above 0, got {scale}.")
        return scale

    def _check_measurable(self, measures: list[WeightMeasure]) -> None:
        if not self._tracer.order:
            raise RuntimeError(
                "no forward pass of the model has been seen: enter GradientRecorder before it, and "
                "call the model itself, not its forward method."
            )
        wanted = any(not measure.frozen for measure in measures)
        if wanted and not any(measure.has_gradient for measure in measures):
            raise RuntimeError(
                "no layer has a gradient: call step() after loss.backward() and before "
                "optimizer.zero_grad()."
            )

    def _warn_of_two_backwards(self) -> None:
        twice = {c.neuron for calls in self._tracer.calls.values() for c in calls if c.grads > 1}
        if twice:
            warnings.warn(
                f"two backward passes went through one forward pass at '{min(twice)}': norms of "
                "parts do not add up, so output_grad_norm is NaN there. Add the losses up and call "
                "backward() once.",
                ShortcutWarning,
                stacklevel=4,
            )

    def _refuse_compiled(self, activity: bool) -> None:
        inside = find_compiled(self._model)
        if inside is not None:
            where = f"its submodule '{inside}'" if inside else "it"
            raise ValueError(
                f"{type(self._model).__name__} cannot be recorded: {where} is compiled in place, "
                "and compiled code runs no hooks. Record before compiling, or compile the whole "
                "with torch.compile(model) and record that with activity=False."
            )
        if activity and self._compiled is not None:
            raise ValueError(
                "the model is compiled, and compiled code runs no hooks, so its spiking layers "
                "cannot be measured: pass activity=False for the weights alone, or record the "
                "model before compiling it."
            )
