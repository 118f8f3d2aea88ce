"""What a network without heads is trained with where spikes have a price."""

import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from analysis.common.priced import Priced
from sj_shortcut import SpikePrice


def test_it_is_cross_entropy_and_the_price() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(layer.Linear(8, 16), neuron.LIFNode(v_threshold=0.1), layer.Linear(16, 4))
    loss = Priced(SpikePrice(model, factor=0.5))
    x, y = 5 * torch.rand(3, 8), torch.tensor([0, 1, 2])
    output = model(x)
    total = loss(output, y)
    fired = loss.price.rates["1"]  # as untrained, of which half is free
    due = nn.functional.cross_entropy(output, y) + (fired / (0.5 * fired) - 1) ** 2
    torch.testing.assert_close(total, due)
    total.backward()
    assert model[0].weight.grad.any()
