"""What a loss may be made of, and what it may be given: logits, and a target that fits them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from sj_shortcut.price import SpikePrice
from sj_shortcut.schedules import ShortcutSchedule

__all__ = ["check_made_for", "check_options", "check_price", "check_schedule", "check_shapes"]

# Criteria of PyTorch's that would take, or broadcast, targets of a wrong shape.
_OF_NUMBERS = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.KLDivLoss,
)
_OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss, *_OF_NUMBERS)


def check_options(criterion: Any, schedule: Any, combine: Any, per_step: Any) -> None:
    """Refuse what no loss can be made of; the arguments are those of ``ShortcutLoss``.

    Raises:
        TypeError: If one has the wrong type.
        ValueError: If one has a wrong value, or two do not fit each other.
    """
    if not callable(criterion):
        raise TypeError(
            "criterion must be callable as criterion(logits, target), such as "
            f"nn.CrossEntropyLoss(); got {type(criterion).__name__}."
        )
    if isinstance(criterion, type):
        raise TypeError(
            f"criterion is the class {criterion.__name__} itself: pass an instance, such as "
            f"{criterion.__name__}()."
        )
    if combine not in ("loss", "logits"):
        raise ValueError(f'combine must be "loss" or "logits", got {combine!r}.')
    if schedule is not None:
        check_schedule(schedule, combine)
    if not isinstance(per_step, bool):
        raise TypeError(f"per_step must be True or False, got {per_step!r}.")


def check_schedule(schedule: Any, combine: str) -> None:
    """Refuse what a loss cannot follow.

    Raises:
        TypeError: If it is no schedule.
        ValueError: If it needs what ``combine`` does not give.
    """
    if not isinstance(schedule, ShortcutSchedule):
        raise TypeError(
            "schedule must be a ShortcutSchedule, such as EvolutionarySchedule(epochs) or "
            f"ConstantSchedule(1.0); got {type(schedule).__name__}."
        )
    if combine == "logits" and schedule.needs_losses:
        raise ValueError(
            f"{type(schedule).__name__} compares the losses of the heads, and "
            'combine="logits" has none: use combine="loss", or '
            "EvolutionarySchedule(epochs)."
        )


def check_price(price: Any, model: nn.Module) -> None:
    """Refuse what is no price on the spikes of a model.

    Raises:
        TypeError: If it is none at all.
        ValueError: If it is another model's.
    """
    if not isinstance(price, bool | SpikePrice):
        raise TypeError(
            f"price must be True, False or a SpikePrice(model), got {price!r}: for another "
            "strength, factor or rate pass SpikePrice(model, factor=0.8)."
        )
    if isinstance(price, SpikePrice) and not price.is_of(model):
        raise ValueError("price is a SpikePrice of another model: make one for this model.")


def check_made_for(
    heads: Mapping[str, float], present: Iterable[str], per_step: bool, per_step_now: bool
) -> None:
    """Refuse a model that was wrapped anew, or got another loss, since a loss was made for it.

    Args:
        heads: The weights of the heads that the loss was made for, by name.
        present: Where the model has heads.
        per_step: Whether the loss takes logits of every time step.
        per_step_now: Whether the heads keep them.

    Raises:
        RuntimeError: If they do not fit.
        TypeError: If the weights were set to something else later.
    """
    if not isinstance(heads, Mapping):
        raise TypeError(
            f"criterion.weights was set to {heads!r}: set the weight of a head by its name, as in "
            f"criterion.weights[{next(iter(present), '')!r}] = 0.5."
        )
    if set(heads) != set(present):
        raise RuntimeError(
            f"this ShortcutLoss was made for heads at {', '.join(heads)}, but the model "
            f"has them at {', '.join(present)} now: make a new ShortcutLoss."
        )
    if per_step != per_step_now:
        raise RuntimeError(
            f"another ShortcutLoss with per_step={per_step_now} was made for this model after this "
            f"one with per_step={per_step}, so its heads keep no logits "
            f"{'per step' if per_step else 'averaged over time'}: make this one last."
        )


def check_shapes(output: Any, target: Any, criterion: Any, per_step: bool) -> None:
    """Refuse an output or a target that a criterion would misread, or broadcast.

    Args:
        output: Must be ``[N, K]``, per step ``[T, N, K]``.
        target: What the criterion takes.
        criterion: The task loss.
        per_step: Whether it is applied at every time step.

    Raises:
        TypeError: If the output is no tensor.
        ValueError: If shapes do not fit.
    """
    if not isinstance(output, Tensor):
        raise TypeError(
            f"output must be the model's logits as a tensor, got {type(output).__name__}."
        )
    if per_step and output.ndim != 3:
        raise ValueError(
            f"per_step=True needs the logits of every time step, [T, N, K], got "
            f"{tuple(output.shape)}: pass model(x), not model(x).mean(0)."
        )
    if not per_step and output.ndim != 2:
        raise ValueError(
            f"output must be logits [N, K], got {tuple(output.shape)}: average over time "
            "first, as in model(x).mean(0), or set per_step=True."
        )
    if not isinstance(criterion, _OF_CLASSES) or not isinstance(target, Tensor):
        return  # what a criterion of the user's takes is between the two
    batch, classes = output.shape[-2:]
    fits = [(batch, classes)]
    if not isinstance(criterion, _OF_NUMBERS):
        fits.insert(0, (batch,))  # type: ignore[arg-type]
    if tuple(target.shape) not in fits:
        raise ValueError(
            f"target has shape {tuple(target.shape)}; for logits of {batch} samples and "
            f"{classes} classes {type(criterion).__name__} needs "
            f"{' or '.join(map(str, fits))}."
            + (" Make classes one-hot." if tuple(target.shape) == (batch,) else "")
        )
