"""The price on spikes as a term of the training loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sj_shortcut.price import SpikePrice

__all__ = ["with_price"]


def with_price(
    total: Tensor, output: Tensor, price: Any, criterion: Any, parts: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Add the price to a loss, and to its parts.

    Args:
        total: The loss of the output and the heads.
        output: The model's output.
        price: What ``ShortcutLoss.price`` is, which may have been set by hand.
        criterion: The task loss.
        parts: The terms so far, detached.

    Returns:
        The total, and the terms with ``"price"``.

    Raises:
        TypeError: If it is no price.
    """
    if not isinstance(price, SpikePrice):
        raise TypeError(
            f"criterion.price was set to {price!r}, which is a choice only where the loss is made: "
            "set criterion.price = SpikePrice(model), or None for no price."
        )
    main = parts["main"]
    of_classes = isinstance(criterion, nn.CrossEntropyLoss) and not main.ndim
    spikes = price(output, main if of_classes else None)
    total = total + spikes
    return total, {**parts, "total": total.detach(), "price": spikes.detach()}
