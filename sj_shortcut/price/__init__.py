"""A price on spikes while a network trains: what each layer fires, weighed by what it drives."""

from sj_shortcut.price.hooks import remove_price
from sj_shortcut.price.spike_price import SpikePrice

__all__ = ["SpikePrice", "remove_price"]
