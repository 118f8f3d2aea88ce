"""A loss or gradient that is not finite is noticed at its step, before it spoils what is saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from .checkpoint import PREVIOUS
from .errors import UserError
from .sharding import local

if TYPE_CHECKING:
    from .building import Run

__all__ = ["Undo", "all_finite", "check_scale", "check_weights", "refuse"]

# fp16's scaler halves its scale with each step that it leaves out, from 65536 on.
SMALLEST_SCALE = 2.0**-20


def all_finite(run: Run, loss: Tensor) -> Tensor:
    """Whether loss, gradients and running statistics are finite, as a tensor: nothing waits.

    With fp16 the gradients are the scaler's business, which leaves out steps that overflow.
    """
    watched = [buffer for buffer in run.model.buffers() if buffer.is_floating_point()]
    if not run.scaler.is_enabled():
        watched += [local(p.grad) for p in run.model.parameters() if p.grad is not None]
    watched = [values for values in watched if values.numel()]  # a part of a small weight is empty
    finite = torch.isfinite(loss.detach())
    if watched:
        # The largest number of each: their sum may overflow where none of them does.
        finite = finite & torch.isfinite(nn.utils.get_total_norm(watched, float("inf")))
    return finite


def refuse(run: Run, sums: Mapping[str, Tensor]) -> NoReturn:
    """End the training with what is not finite, and what to do about it."""
    advice = f"{remedies(run)}; or with --skip-nonfinite, which leaves such steps out"
    raise UserError(f"{culprit(run, sums)} in {where(run)}; nothing of it is saved. {advice}")


def check_weights(run: Run) -> None:
    """No checkpoint is written of weights that are not finite: a large step may take them there."""
    names = [name for name, value in run.model.state_dict().items() if bad(value)]
    if run.world.any(bool(names)):
        names = names or ["a part of the weights in another process"]
        others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        at = run.position
        raise UserError(
            f"{names[0]}{others} is not finite after {at.batch} steps of epoch {at.epoch + 1}; it "
            f"is not saved. {remedies(run)}"
        )


def where(run: Run) -> str:
    return f"epoch {run.position.epoch + 1}, step {run.position.batch + 1}"


def remedies(run: Run) -> str:
    path, previous = run.folder, run.folder / PREVIOUS
    if run.saved_at == (run.position.epoch, run.position.batch) and previous.exists():
        path = previous  # last.pt has led here at once, so that its weights are to blame
    lr = min(run.args.lr / 10, 0.01 if run.args.optimizer == "sgd" else 1e-4)
    clip = "" if run.args.clip_grad else ", or --clip-grad 1"
    return f"Go on from a good checkpoint with --resume {path} and, say, --lr {lr:g}{clip}"


def culprit(run: Run, sums: Mapping[str, Tensor]) -> str:
    """Which loss, layer or statistic is not finite, in words."""
    for name, value in sums.items():
        if name != "loss_total" and not torch.isfinite(value):
            of = "the output" if name == "loss_main" else f"head {name.removeprefix('loss_')}"
            return f"the loss of {of} is {value.item()}"
    if not torch.isfinite(sums["loss_total"]):
        return f"the sum of the losses is {sums['loss_total'].item()}"
    layers = [n for n, p in run.model.named_parameters() if p.grad is not None and bad(p.grad)]
    if layers:
        # It comes from the deepest of them, as gradients go backwards.
        before = f" (and of {len(layers) - 1} before it)" if len(layers) > 1 else ""
        return f"the gradient of {layers[-1]}{before} is not finite"
    buffers = [name for name, buffer in run.model.named_buffers() if bad(buffer)]
    if buffers:
        return f"the running statistic {buffers[0]} is not finite"
    return "a loss or gradient of another process is not finite"


def bad(x: Tensor) -> bool:
    return x.is_floating_point() and not bool(torch.isfinite(local(x)).all())


def check_scale(run: Run) -> None:
    """fp16 alone: a scale that only ever falls means that no step is ever taken."""
    if run.scaler.is_enabled() and run.scaler.get_scale() < SMALLEST_SCALE:
        raise UserError(
            f"the gradient is not finite, however the loss is scaled, in {where(run)}: use --amp "
            f"bf16 or off, with --resume {run.folder}"
        )


class Undo:
    """What a step changes before its gradients are known, to take it back if they are bad."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.buffers = {name: b.clone() for name, b in run.model.named_buffers()}
        self.schedule: Any = run.criterion.schedule.state_dict() if run.has_heads else None
        self.price: Any = None if run.price is None else run.price.get_extra_state()

    def __call__(self) -> None:
        for name, buffer in self.run.model.named_buffers():
            buffer.copy_(self.buffers[name])
        if self.schedule is not None:
            self.run.criterion.schedule.load_state_dict(self.schedule)
        if self.run.price is not None:
            self.run.price.set_extra_state(self.price)
