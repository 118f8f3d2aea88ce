"""That networks are what they say."""

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import nn

from analysis.gradient_vanishing.run import build


@pytest.mark.parametrize("net", ["plain", "resnet"])
@pytest.mark.parametrize("depth", [6, 18, 30, 48])
def test_networks_are_as_deep_as_they_say(net, depth) -> None:
    model = build(net, depth, "rect", in_channels=2)
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth
    assert model(torch.rand(4, 2, 2, 8, 8)).shape == (4, 2, 10)
    functional.reset_net(model)
