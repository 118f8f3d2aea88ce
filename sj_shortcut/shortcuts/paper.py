"""The paper's two trainings by their names, each in one line.

The equations are those of Guo et al., "Take A Shortcut Back: Mitigating the Gradient Vanishing for
Training Spiking Neural Networks" (NeurIPS 2024, arXiv 2401.04486); ``docs/paper.md`` says fact by
fact what is theirs.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from sj_shortcut.places import At
from sj_shortcut.schedules import ConstantSchedule, EvolutionarySchedule, ShortcutSchedule
from sj_shortcut.shortcuts.loss import Criterion, ShortcutLoss
from sj_shortcut.shortcuts.wrap import remove_shortcuts, wrap_with_shortcuts

__all__ = ["evolutionary_training", "shortcut_backpropagation"]


def shortcut_backpropagation(
    model: nn.Module,
    criterion: Criterion,
    *,
    at: At = "stages",
    per_step: bool = False,
    **wrapping: Any,
) -> ShortcutLoss:
    r"""Wrap a model for the paper's shortcut back-propagation, and return its loss.

    A branch of global average pooling and one linear layer at the end of each block, and one loss
    of all logits together (Eq. 6 of the paper):

    .. math:: L\Big(o_N + \sum_l o_l,\; y\Big)

    with the model's own logits :math:`o_N` and those of branch :math:`l`, :math:`o_l`. Their sum
    is what is trained to the end, so that removing the branches changes predictions;
    :func:`evolutionary_training` is the paper's answer to that.

    Ours are readings of what the paper leaves open: its blocks are stages of width or resolution,
    the last of which ends in the model's own classifier, and branches average over time as well.

    Args:
        model: Any spiking model, which is wrapped in place as by :func:`wrap_with_shortcuts`.
        criterion: The loss of the summed logits; the paper's is ``nn.CrossEntropyLoss()``.
        at: Where the blocks end, as :func:`wrap_with_shortcuts` takes it.
        per_step: Apply the criterion at every time step, see :class:`ShortcutLoss`.
        **wrapping: Further options of :func:`wrap_with_shortcuts`, such as ``num_classes``.

    Returns:
        The loss, to be called as :class:`ShortcutLoss`. Nothing needs to be stepped.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: As :func:`wrap_with_shortcuts`.

    Example:
        >>> from spikingjelly.activation_based import layer, neuron
        >>> model = nn.Sequential(layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 4),
        ...                       neuron.LIFNode(), layer.Linear(4, 2))
        >>> shortcut_backpropagation(model, nn.CrossEntropyLoss())
        ShortcutLoss(
          schedule=ConstantSchedule(coefficient=1.0, last_epoch=0), combine='logits', per_step=False
          (criterion): CrossEntropyLoss()
        )
    """
    return _summed(model, criterion, ConstantSchedule(1.0), at, per_step, wrapping)


def evolutionary_training(
    model: nn.Module,
    criterion: Criterion,
    epochs: float,
    *,
    at: At = "stages",
    per_step: bool = False,
    **wrapping: Any,
) -> ShortcutLoss:
    r"""Wrap a model for the paper's evolutionary training, and return its loss.

    As :func:`shortcut_backpropagation`, but the branches fade out (Eq. 10 of the paper):

    .. math::
        L\Big(o_N + \lambda(i) \sum_l o_l,\; y\Big), \qquad
        \lambda(i) = 0.25\,\Big(1 - \frac{i}{I}\Big)

    with the iteration i, from 0, of I in all. To follow it by iterations, call
    ``loss.schedule.step(epoch + (batch + 1) / len(loader))`` after each batch.

    Args:
        model: Any spiking model, which is wrapped in place as by :func:`wrap_with_shortcuts`.
        criterion: The loss of the summed logits; the paper's is ``nn.CrossEntropyLoss()``.
        epochs: Length of the training; I is that times the batches of an epoch.
        at: Where the blocks end, as :func:`wrap_with_shortcuts` takes it.
        per_step: Apply the criterion at every time step, see :class:`ShortcutLoss`.
        **wrapping: Further options of :func:`wrap_with_shortcuts`, such as ``num_classes``.

    Returns:
        The loss, to be called as :class:`ShortcutLoss`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: As :func:`wrap_with_shortcuts`, and if ``epochs`` is not above 0.

    Example:
        >>> from spikingjelly.activation_based import layer, neuron
        >>> model = nn.Sequential(layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 4),
        ...                       neuron.LIFNode(), layer.Linear(4, 2))
        >>> epochs, batches = 2, 3
        >>> loss = evolutionary_training(model, nn.CrossEntropyLoss(), epochs)
        >>> for epoch in range(epochs):
        ...     for batch in range(batches):
        ...         print(f"{loss.schedule.coefficient:.3f}")
        ...         loss.schedule.step(epoch + (batch + 1) / batches)
        0.250
        0.208
        0.167
        0.125
        0.083
        0.042
    """
    return _summed(model, criterion, EvolutionarySchedule(epochs), at, per_step, wrapping)


def _summed(
    model: nn.Module,
    criterion: Criterion,
    schedule: ShortcutSchedule,
    at: At,
    per_step: bool,
    wrapping: dict[str, Any],
) -> ShortcutLoss:
    """Branches as the paper's, and the loss of their logits added to the output's."""
    own = {"grid": 1} if wrapping.get("head") is None else {}
    wrap_with_shortcuts(model, at, **{**own, **wrapping})
    try:
        return ShortcutLoss(model, criterion, schedule, combine="logits", per_step=per_step)
    except BaseException:
        remove_shortcuts(model)
        raise
