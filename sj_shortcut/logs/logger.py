"""Log a training loop of one's own."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from sj_shortcut.gradients.flow import gradient_flow
from sj_shortcut.gradients.recorder import GradientRecorder
from sj_shortcut.gradients.run_model import Forward, moved_to, output_of, pairs
from sj_shortcut.gradients.when import When, as_predicate
from sj_shortcut.logs.scalars import Scalars, layer_scalars, shortcut_scalars
from sj_shortcut.logs.writers import writer_for
from sj_shortcut.neurons import reset_states
from sj_shortcut.shortcuts.access import find_wrapped, shortcut_logits, shortcuts_enabled
from sj_shortcut.shortcuts.loss import ShortcutLoss
from sj_shortcut.torch_model.preserve import preserved, untouched_rng
from sj_shortcut.torch_model.ranks import rank
from sj_shortcut.torch_model.warnings import ShortcutWarning
from sj_shortcut.torch_model.wrappers import bare_model

__all__ = ["ShortcutLogger"]


class ShortcutLogger:
    """Writes how a training with shortcuts goes: losses by part, λ, gradients, spikes, accuracies.

    At the steps that are due, :meth:`step` writes

    - ``loss/total``, ``loss/main`` and ``loss/HEAD``, before weighting;
    - ``lambda/HEAD``, the weight of each head;
    - ``weight_grad_norm/LAYER`` and ``firing_rate/LAYER``, as :class:`GradientRecorder` measures
      them.

    Steps that are not due cost nothing, and training goes on bit for bit as without. Of several
    processes the first one writes.

    Args:
        model: The wrapped model, bare, in DistributedDataParallel or compiled; compiled code does
            not show its spikes.
        criterion: Its loss.
        *to: Where to: the path of a CSV file or of a folder for one (columns ``step``, ``name``,
            ``value``; a file that is there is gone on with), TensorBoard's ``SummaryWriter``, a
            logger of Lightning's, a run of Weights & Biases, a function ``(values, step)``, or
            several of these.
        every: Every how many steps to write, or a predicate of the step; see
            :class:`GradientRecorder`.
        start: Number of the first step, for a training that goes on.
        layers: Whether to write numbers of layers; they cannot be had of a sharded model (FSDP).

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model has no shortcuts, the loss is of another model, or there is nothing
            to write to.

    Example:
        >>> from spikingjelly.activation_based import functional, layer, neuron
        >>> from sj_shortcut import wrap_with_shortcuts
        >>> model = nn.Sequential(layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 4),
        ...                       neuron.LIFNode(), layer.Linear(4, 2))
        >>> functional.set_step_mode(model, "m")
        >>> criterion = ShortcutLoss(wrap_with_shortcuts(model), nn.CrossEntropyLoss())
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> x, y, names = torch.rand(4, 3, 8), torch.tensor([0, 1, 0]), []
        >>> with ShortcutLogger(model, criterion, lambda values, step: names.extend(values)) as log:
        ...     criterion(model(x).mean(0), y).backward()
        ...     _ = log.step()  # after backward, before the optimizer changes anything
        ...     optimizer.step()
        ...     functional.reset_net(model)
        ...     measured = log.look([(x, y)])  # of data that you choose, say once an epoch
        >>> names[:4], list(measured)
        (['loss/total', 'loss/main', 'loss/1', 'lambda/1'], ['accuracy/main', 'accuracy/1'])
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: ShortcutLoss,
        *to: Any,
        every: When = 50,
        start: int = 0,
        layers: bool = True,
    ) -> None:
        self._model = find_wrapped(model)
        if not isinstance(criterion, ShortcutLoss):
            raise TypeError(f"criterion must be a ShortcutLoss, got {type(criterion).__name__}.")
        if criterion._root[0] is not self._model:
            raise ValueError(
                "criterion is a ShortcutLoss of another model (or of a copy): pass the one that "
                "this model trains with."
            )
        if isinstance(start, bool) or not isinstance(start, int) or start < 0:
            raise ValueError(f"start must be the number of a step, 0 or more, got {start!r}.")
        if not to:
            raise ValueError("there is nothing to write to: name a folder, such as 'runs/first'.")
        self._criterion = criterion
        spikes = ("firing_rate",) if layers and bare_model(model)[1] is None else ()
        self._columns = ("weight_grad_norm", *spikes) if layers else ()
        self._when, self._steps = as_predicate(every), 0
        # Not made where it is not needed: gradients of sharded weights cannot be measured.
        self._recorder = GradientRecorder(model, when=every, activity=spikes) if layers else None
        # Last: whatever is refused leaves no file behind.
        self._writers = [writer_for(one) for one in to] if rank() == 0 else []
        self._next = start
        self._told = False

    def __enter__(self) -> ShortcutLogger:
        if self._recorder is not None:
            self._recorder.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._recorder is not None:
            self._recorder.__exit__(*exc)

    def step(self) -> bool:
        """Write, if this step is due. Call it after ``loss.backward()``, inside ``with``.

        Returns:
            Whether it wrote.

        Raises:
            RuntimeError: As :meth:`GradientRecorder.step`.

        Warns:
            ShortcutWarning: Once, if the model is in eval mode.
        """
        recorder = self._recorder
        measured = bool(self._when(self._steps)) if recorder is None else recorder.step()
        if not (self._model.training or self._told):
            self._told = True
            warnings.warn(
                "step() of ShortcutLogger was called in eval mode, and counts as a step of "
                "training: it writes losses and gradients of an earlier step once more. Call it "
                "after loss.backward() of training steps alone, and look(...) for validation.",
                ShortcutWarning,
                stacklevel=2,
            )
        if measured:
            values = shortcut_scalars(self._model, self._criterion)
            if recorder is not None:
                values |= layer_scalars(recorder.latest, self._columns)
            self._write(values)
        self._next += 1
        self._steps += 1
        return measured

    def look(self, batches: Any, *, forward: Forward | None = None) -> Scalars:
        """Write the accuracy of the output and of each head, and whether batches agree.

        The model is looked at in eval mode, and left as it was.

        Args:
            batches: One ``(x, y)`` with class numbers y, or several.
            forward: How to get from ``(model, x)`` to logits; see :func:`gradient_flow`.

        Returns:
            What was written: ``accuracy/main`` and ``accuracy/HEAD``; with several batches also
            ``coherence/LAYER`` (see :func:`gradient_flow`).

        Raises:
            TypeError: As :func:`gradient_flow`.
            ValueError: As :func:`gradient_flow`, and if labels are no class numbers.
        """
        with untouched_rng():  # which a loader draws from, even one that does not shuffle
            every = list(pairs(batches))
        if not every:
            raise ValueError("batches is empty: pass one (x, y), or an iterable of them.")
        values = self._accuracies(every, forward)
        if len(every) > 1 and self._columns:
            frame = gradient_flow(
                self._model, self._criterion, every, activity=False, forward=forward
            )
            values |= layer_scalars(frame, ["coherence"])
        self._write(values)
        return values

    def _accuracies(self, batches: list[tuple[Any, Any]], forward: Forward | None) -> Scalars:
        model, right, count = self._model, dict[str, int](), 0
        device = next(model.parameters()).device
        with preserved(model), torch.no_grad():
            model.eval()
            for x, y in batches:
                if not isinstance(y, Tensor) or y.ndim != 1 or y.is_floating_point():
                    raise ValueError("accuracies need labels that are class numbers [N].")
                x, y = moved_to(x, device), moved_to(y, device)
                reset_states(model)
                with shortcuts_enabled(model):
                    output = output_of(model, x, y, self._criterion, forward, ())
                    logits = {"main": output.mean(0) if output.ndim == 3 else output}
                    logits |= shortcut_logits(model)
                for name, one in logits.items():
                    right[name] = right.get(name, 0) + int((one.argmax(1) == y).sum())
                count += len(y)
        return {f"accuracy/{name}": number / count for name, number in right.items()}

    def _write(self, values: Scalars) -> None:
        for write in self._writers:
            write(values, self._next)
