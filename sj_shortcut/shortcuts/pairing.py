"""Find the heads' logits that belong to an output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sj_shortcut.shortcuts.forwards import Forwards, Record, in_time
from sj_shortcut.shortcuts.join import records_behind
from sj_shortcut.shortcuts.picks import picks_behind
from sj_shortcut.shortcuts.together import check_batch_sizes, compute_together

__all__ = ["gathered", "heads_behind", "why_no_heads"]

_ONE_OF_SEVERAL = (
    "several forwards of wrapped models ran in one piece of compiled code, and nothing outside of "
    "it tells which of them this output comes from. Compile each model alone, "
    "torch.compile(model), and leave what calls it as it is; or take the loss in the same compiled "
    "function."
)


def heads_behind(
    output: Tensor, root: nn.Module, forwards: Forwards
) -> tuple[dict[str, Tensor], list[Record]] | None:
    """The heads' logits of the forwards that an output comes from.

    Args:
        output: ``[N, K]``, or ``[T, N, K]`` where heads keep time steps apart. It may be a mean
            or sum over forwards of one time step, or several forwards behind each other.
        root: The wrapped model.
        forwards: What its heads know of its forward passes.

    Returns:
        By name ``[N, K]`` or ``[T, N, K]``, and the records they are from; ``None`` for an output
        that was computed without gradients.

    Raises:
        RuntimeError: If there are none, or they belong to another model, with the reason.
        ValueError: If their sizes do not fit the output.
    """
    if not output.requires_grad:
        if forwards.trains:
            raise RuntimeError(
                "the output has no graph, though the model's last forward had one: it was "
                "detached, went through NumPy, or was computed without gradients before, and "
                "neither it nor the heads could learn. Give the loss the output as the model gave "
                "it; for the loss of an output without gradients take torch.no_grad()."
            )
        return None
    found, passed = records_behind(output, forwards.of_compiled_code())
    records = [record for record, _ in found]
    if any(record.shared or record.joined in record.several for record in records):
        raise RuntimeError(_ONE_OF_SEVERAL)
    if any(record.forwards is not forwards for record in records):
        raise RuntimeError(
            "this output comes from another wrapped model (or a copy) than the one that this "
            "ShortcutLoss was made for: make a ShortcutLoss for each model."
        )
    forwards.forget_used(records)
    if not records:
        raise RuntimeError(_why_no_record(root, forwards))
    if not any(record.logits for record in records):  # every tapped module was left out
        return {}, records
    _check_way(found, forwards)
    records = _with_steps_before(records, forwards)
    logits = _fitted(output, records, passed, forwards)
    if not logits:
        raise RuntimeError(why_no_heads(root, forwards, records))
    _check_steps(output, logits)
    return logits, records


def _with_steps_before(records: list[Record], forwards: Forwards) -> list[Record]:
    """The records, and those of time steps before them whose output went into nothing.

    A loss of the last time step's output is one of the whole sequence, as where a call is all of
    it; where heads keep time steps apart it is of those steps alone.
    """
    sequence, known = forwards.sequence(), set(records)
    if forwards.per_step or not forwards.resets or not known.issubset(sequence):
        return records
    last = max(record.number for record in records)
    size = records[0].batch_size
    before = [r for r in sequence if r.number < last and r not in known and r.logits]
    unused = [r for r in before if not (r.used or r.spent) and r.batch_size == size]
    return [*records, *unused]


def gathered(
    records: Sequence[Record], names: Iterable[str], *, per_step: bool
) -> dict[str, Tensor]:
    """Logits of several forwards that are time steps of each other.

    Args:
        records: The forwards, in the order of time.
        names: The heads wanted; those that did not run are left out.
        per_step: Whether to keep time steps apart, ``[T, N, K]``, or to average, ``[N, K]``.

    Raises:
        RuntimeError: If the batch size changed from one to the next.
    """
    together = compute_together(records)
    found = {}
    for name in names:
        if name in together:
            found[name] = in_time([(together[name], len(records))], per_step)
            continue
        pieces = [(x, t) for r in records for x, t in zip(*_calls(r, name), strict=True)]
        if pieces:
            check_batch_sizes(name, {x.shape[-2] for x, _ in pieces})
            found[name] = in_time(pieces, per_step)
    return found


def _calls(record: Record, name: str) -> tuple[list[Tensor], list[int]]:
    return record.logits.get(name, []), record.steps.get(name, [])


def _fitted(
    output: Tensor, records: list[Record], passed: set[Any], forwards: Forwards
) -> dict[str, Tensor]:
    """Logits of the size of the output: time steps averaged, or batches behind each other."""
    ran = [record for record in records if record.logits]
    rows = [record.batch_size for record in ran]
    samples, pick = picks_behind(output, passed, {*rows, sum(rows)})
    if all(size == samples for size in rows):
        ordered = sorted(ran, key=lambda record: record.number)
        logits = gathered(ordered, forwards.names, per_step=forwards.per_step)
    elif sum(rows) == samples:
        each = [gathered([one], forwards.names, per_step=forwards.per_step) for one in ran]
        names = [name for name in forwards.names if all(name in one for one in each)]
        logits = {name: torch.cat([one[name] for one in each], -2) for name in names}
    else:
        several = f"{len(rows)} forwards" if len(rows) > 1 else "forward"
        raise ValueError(
            f"the output has {samples} samples, but the {several} that it comes from gave the "
            f"heads {' and '.join(map(str, dict.fromkeys(rows)))}: pass the whole output, as the "
            "model gave it." + _hint_of_time(samples, rows)
        )
    logits = {name: pick(values) for name, values in logits.items()}
    for name, values in logits.items():
        if values.shape[-2:] != output.shape[-2:]:
            raise ValueError(
                f"the model's output is {tuple(output.shape)} but the head at '{name}' gave "
                f"{tuple(values.shape)}: pass the output of the same forward, averaged over time "
                "([N, K]; [T, N, K] with per_step=True), and the right num_classes= to "
                "wrap_with_shortcuts."
            )
    return logits


def _check_steps(output: Tensor, logits: dict[str, Tensor]) -> None:
    """Per step, heads have the steps of the output, or one where their points have no time."""
    for name, values in logits.items():
        if values.ndim == 3 and values.shape[0] not in (1, output.shape[0]):
            raise ValueError(
                f"the model's output is {tuple(output.shape)} but the head at '{name}' gave "
                f"{tuple(values.shape)}: pass the output of all time steps, [T, N, K]."
            )


def _hint_of_time(samples: int, rows: list[int]) -> str:
    if rows and rows[0] > samples and rows[0] % samples == 0:
        steps = rows[0] // samples
        return f' If these are {steps} time steps folded into the batch: layout="({steps}N)C...".'
    if len(set(rows)) == 1 < len(rows) and samples % rows[0] == 0:
        return " Or take the loss of each sequence of time steps by itself."
    return ""


def _check_way(found: list[tuple[Record, int | None]], forwards: Forwards) -> None:
    """A head must sit upstream of the output that the loss is given."""
    for record, index in found:
        if index is None or index >= len(forwards.reach):
            continue
        aside = [name for name in record.logits if name not in forwards.reach[index]]
        if aside:
            raise RuntimeError(
                f"the output that this loss was given (number {index} of those that the model "
                f"returns) does not depend on '{aside[0]}', where a shortcut head sits: choose "
                "points on the way to it with at=, or give the loss the output that they lead to."
            )


def _why_no_record(root: nn.Module, forwards: Forwards) -> str:
    """Why an output with a graph does not lead back to a forward with heads."""
    if forwards.trains and forwards.last is not None and not forwards.last.logits:
        return why_no_heads(root, forwards)
    if forwards.trains and forwards.last is not None and not forwards.last.learns():
        return (
            "the shortcut heads and all layers below them are frozen, so there is nothing that "
            "they could train: let layers there train, and the heads with them, "
            "p.requires_grad_(True), or call remove_shortcuts(model) and take the plain criterion."
        )
    if forwards.ran and not forwards.graded:
        return (
            "the model's last forward ran without gradients, and this output has them: either it "
            "is not the model's output, or the model ran under torch.utils.checkpoint with "
            "use_reentrant=True, where heads would train nothing: pass use_reentrant=False."
        )
    if forwards.ran and not forwards.trained:
        return (
            "the model was in eval mode in its last forward, where shortcut heads rest, but the "
            "loss is taken in training mode: call model.train() before the forward."
        )
    return (
        f"this output does not come from a forward pass of the wrapped {type(root).__name__}: it "
        "is another model's, it was detached and computed with again, it is not of the last "
        "forward of a compiled model, or the model was called around its hooks (model.forward(x) "
        "instead of model(x), SpikingJelly's to_functional_forward). Give the loss the output of "
        "model(x), where it is compiled before the next forward."
    )


def why_no_heads(
    root: nn.Module, forwards: Forwards, records: Sequence[Record] | None = None
) -> str:
    """Explain to a user why no head has logits after a forward pass."""
    known = forwards.last if records is None else records[-1]
    if known is not None and known.blocked:
        return (
            f"the shortcut head at '{known.blocked[0]}' ran without gradients inside a model that "
            "has them, as under torch.utils.checkpoint with use_reentrant=True or torch.no_grad, "
            "and would train nothing below it: pass use_reentrant=False, or tap outside of it."
        )
    if known is not None and known.asleep:
        return (
            f"the shortcut heads rest, as '{known.asleep[0]}' was in eval mode in the forward "
            "pass: call train() on the model, or read logits inside shortcuts_enabled(model)."
        )
    return (
        f"the shortcut heads at {', '.join(map(repr, forwards.names))} have no logits: their "
        "points were not reached by a forward pass since the last reset_net. Heads run in training "
        "mode with gradients on (in eval mode inside shortcuts_enabled(model)); what calls a "
        "module's forward around its hooks leaves them out, such as SpikingJelly's "
        "to_functional_forward, and its memopt if it came after wrap_with_shortcuts."
    )
