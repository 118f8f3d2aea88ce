"""What a network without heads is trained with where spikes have a price."""

from __future__ import annotations

from torch import Tensor, nn

from sj_shortcut import SpikePrice

__all__ = ["Priced"]


class Priced(nn.Module):
    """Cross-entropy and the price.

    Args:
        price: Made for the network.
    """

    def __init__(self, price: SpikePrice) -> None:
        super().__init__()
        self.price = price

    def forward(self, output: Tensor, y: Tensor) -> Tensor:
        """The sum of both, of logits ``[N, K]``."""
        loss = nn.functional.cross_entropy(output, y)
        price: Tensor = self.price(output, loss)
        return loss + price
