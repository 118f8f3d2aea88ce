"""Count the spikes of a model and the operations that they drive, layer by layer."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from sj_shortcut.gradients.columns import Row
from sj_shortcut.gradients.run_model import Forward, called_each_step, moved_to, pairs
from sj_shortcut.neurons import reset_states
from sj_shortcut.places import look_at
from sj_shortcut.places.example_pass import untouched
from sj_shortcut.spikes.columns import check_tags, make_frame
from sj_shortcut.spikes.counting import Counting, Tally
from sj_shortcut.spikes.energy import SOURCE, energy_pj
from sj_shortcut.torch_model import (
    ShortcutWarning,
    bare_model,
    first_tensor,
    is_sharded,
    map_tensors,
)

__all__ = ["spike_report"]


def spike_report(
    model: nn.Module,
    batches: Any,
    *,
    energy: bool = False,
    neuron_types: tuple[type, ...] = (),
    forward: Forward | None = None,
    **tags: Any,
) -> pd.DataFrame:
    """Count spikes and operations of each layer, and leave the model as it was.

    Runs the model in eval mode, without gradients, hooks and shortcut heads, from reset neurons for
    each batch. All numbers are of the model that inference runs, a sample each:

    - ``layer``, ``depth``, ``module``: its dotted name, its place in the order of execution from 1
      (NaN if it did not run) and its class; ``kind``: ``"neurons"``, ``"weights"`` (linear and
      convolutional layers), or ``"other"`` for a module that multiplies by itself, as attention;
    - ``samples``: samples counted;
    - of neurons: ``neurons``, ``steps`` (time steps), ``firing_rate`` (share of outputs that are
      not 0, over neurons and time steps), ``spikes`` a sample, ``silent`` (share of neurons that
      fired at no time step of any sample) and ``saturated`` (that fired at every one);
    - of what multiplies: ``synops`` a sample, the accumulates that spikes drive: for each spike the
      weights that it meets; and ``macs`` a sample, multiply-accumulates of layers whose input is
      not spikes, dense, as of the first one on images and of one after average pooling.

    An input is spikes where all that was seen of it is 0 or 1; sums of spikes, as between the
    blocks of SEW-ResNets, are none. Batch norms add no operations: on hardware they are folded into
    the weights before them. Nor do biases, pooling and membrane potentials. Operations are counted
    by the rules of SpikingJelly's ``op_counter`` where it exists (2.0.0), and by equal ones of ours
    where it does not.

    Args:
        model: The model, wrapped or not; in DistributedDataParallel or compiled, the original
            inside it is measured, in this process alone.
        batches: One ``(x, y)``, or an iterable of them, such as a loader. Tensors are moved to the
            model's device. The model is called once with x, or with each step of an x
            ``[T, N, ...]`` where one call of the model is one time step.
        energy: Whether to add ``energy_pj``, the energy of this arithmetic, and print the constants
            (0.9 pJ an accumulate, 4.6 pJ a multiply-accumulate: Horowitz, ISSCC 2014) and what they
            leave out. NaN for a network that is silent or untrained.
        neuron_types: Your own spiking neuron classes, if they do not derive from SpikingJelly's.
        forward: How to get from ``(model, x)`` to the output, if it is another way.
        **tags: Columns of your own, such as ``run="vanilla"``.

    Returns:
        One row a layer, in order of depth.

    Raises:
        TypeError: If an argument has the wrong type, or the model is sharded.
        ValueError: If there is no batch, a batch is no pair, or a tag has the name of a column.

    Example:
        >>> from spikingjelly.activation_based import layer, neuron
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...
        >>> model = nn.Sequential(layer.Linear(8, 16), neuron.IFNode(), layer.Linear(16, 2))
        >>> frame = spike_report(model, (5 * torch.rand(4, 3, 8), torch.tensor([0, 1, 0])))
        >>> frame[["layer", "kind", "samples", "neurons", "steps", "macs"]]
          layer     kind  samples  neurons  steps   macs
        0     0  weights        3      NaN    NaN  512.0
        1     1  neurons        3     16.0    4.0    NaN
        2     2  weights        3      NaN    NaN    0.0
        >>> bool(frame.synops[2] == 2 * frame.spikes[1])
        True
    """
    bare, _ = bare_model(model)
    check_tags(tags)
    if not isinstance(energy, bool):
        raise TypeError(f"energy must be True or False, got {energy!r}.")
    if any(map(is_sharded, bare.modules())):
        raise TypeError(
            f"{type(bare).__name__} is sharded (FSDP), and a pass without its hooks would not find "
            "its weights: count spikes of a model that is whole, with the saved weights, say."
        )
    report = _Report(bare, neuron_types, forward)
    with (
        untouched(bare),
        torch.inference_mode(False),
        torch.no_grad(),
        torch.compiler.set_stance("force_eager"),
    ):
        for x, y in pairs(batches):
            report.measure(x, y)
    if not report.batches:
        raise ValueError("batches is empty: pass one (x, y), or an iterable of them.")
    rows = report.rows()
    silent = _tell_of_silence(bare, rows)
    if energy:
        print(SOURCE)
        for row in rows:
            row["energy_pj"] = math.nan if silent else energy_pj(row["synops"], row["macs"])
    return make_frame(rows, tags)


class _Report:
    """The measurement of batch after batch."""

    def __init__(
        self, model: nn.Module, neuron_types: tuple[type, ...], forward: Forward | None
    ) -> None:
        self.model = model
        self.neuron_types = neuron_types
        self.forward = forward
        self.counting = Counting(model, neuron_types)
        self.each_step: bool | None = None
        self.batches = self.samples = 0

    def measure(self, x: Any, y: Any) -> None:
        """Count one batch."""
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        x = moved_to(x, device)
        if self.forward is None and self.each_step is None:
            self.each_step = called_each_step(self.model, x, y, self.neuron_types)
        self.counting.samples = _samples(y)
        if not self.batches:
            self.counting.watch()
        output = self._run(x)
        unresolved = self.counting.unresolved()
        if unresolved and not self.batches and self.forward is None:
            self._look(x, unresolved)
            self.counting.forget()
            output = self._run(x)
        self.batches += 1
        self.samples += self._samples_of(output)

    def _run(self, x: Any) -> Any:
        reset_states(self.model)
        x = map_tensors(x, Tensor.clone)  # a model may change in place what it is given
        with self.counting:
            if self.forward is not None:
                return self.forward(self.model, x)
            if self.each_step:
                return [self.model(step) for step in x][-1]
            return self.model(*x) if isinstance(x, tuple) else self.model(x)

    def _look(self, x: Any, names: list[str]) -> None:
        """See on the running model what the step modes of neurons do not tell."""
        seen = x[0] if self.each_step else x
        args = seen if isinstance(seen, tuple) else (seen,)
        try:
            with torch.enable_grad():
                look = look_at(self.model, args, {}, names, neuron_types=self.neuron_types)
        except Exception:  # axes that cannot be seen are unknown, which the frame shows
            return
        self.counting.layouts = {name: look.layouts.get(name) for name in names}

    def _samples_of(self, output: Any) -> int:
        if self.counting.samples is not None:
            return self.counting.samples
        tensor = first_tensor(output)
        if tensor is None or tensor.ndim not in (2, 3):
            raise ValueError(
                "neither the labels y nor the model's output tell how many samples a batch has: "
                "pass batches (x, y) with labels y [N]."
            )
        return tensor.shape[-2]  # of [N, K] or [T, N, K]

    def rows(self) -> list[Row]:
        """A row a layer, in order of depth."""
        found = [t for t in self.counting.tallies.values() if t.kind != "other" or t.products]
        found.sort(key=lambda tally: tally.turn if tally.turn >= 0 else math.inf)
        return [self._row(tally, depth) for depth, tally in enumerate(found, start=1)]

    def _row(self, tally: Tally, depth: int) -> Row:
        ran = tally.turn >= 0
        row: Row = {
            "layer": tally.name,
            "depth": depth if ran else math.nan,
            "module": type(tally.module).__name__,
            "kind": tally.kind,
            "samples": self.samples,
        }
        fired = tally.kind == "neurons" and tally.places > 0
        row["firing_rate"] = tally.spikes / tally.places if fired else math.nan
        row["spikes"] = tally.spikes / self.samples if fired else math.nan
        each = None if tally.unknown else tally.each
        known = fired and each is not None and each.numel() > 0
        row["neurons"] = each.numel() if known and each is not None else math.nan
        row["steps"] = tally.rows / self.samples if known else math.nan
        row["silent"] = _share(each == 0) if known else math.nan
        row["saturated"] = _share(each == tally.rows) if known else math.nan
        multiplies = tally.products > 0
        by_spikes = tally.only_spikes
        row["synops"] = tally.synops * by_spikes / self.samples if multiplies else math.nan
        row["macs"] = tally.dense * (not by_spikes) / self.samples if multiplies else math.nan
        return row


def _share(marked: Any) -> float:
    return float(marked.double().mean())


def _samples(y: Any) -> int | None:
    """The number of labels, where they are an array with a sample a row."""
    shape: tuple[int, ...] = tuple(getattr(y, "shape", ()))
    return int(shape[0]) if len(shape) else None


def _tell_of_silence(model: nn.Module, rows: list[Row]) -> bool:
    """Warn of numbers that mean little; whether the network says nothing at all."""
    neurons = [row for row in rows if row["kind"] == "neurons" and row["spikes"] >= 0]
    silent = [row["layer"] for row in neurons if not row["spikes"]]
    if _is_untrained(model):
        why = (
            "its batch norms have not seen a batch yet: it is untrained, and will not fire like "
            "this. Train it, or load its weights, first."
        )
    elif neurons and len(silent) == len(neurons):
        why = "no spiking layer fired on these batches: it is silent, which costs and says nothing."
    elif silent:
        some = ", ".join(f"'{name}'" for name in silent[:3])
        why = (
            f"{len(silent)} of {len(neurons)} spiking layers did not fire on these batches "
            f"({some}{', ...' * (len(silent) > 3)}): nothing passes there, so what they save is no "
            "saving. Look at its accuracy first."
        )
    else:
        return False
    warnings.warn(
        f"the spikes of this {type(model).__name__} mean little: {why}",
        ShortcutWarning,
        stacklevel=3,
    )
    return _is_untrained(model) or neurons[-1]["layer"] in silent


def _is_untrained(model: nn.Module) -> bool:
    """Whether no batch norm has seen a batch; without batch norms that cannot be told."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    counts = [n.num_batches_tracked for n in norms if n.num_batches_tracked is not None]
    return bool(counts) and not any(counts)
