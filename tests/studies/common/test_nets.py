"""That networks are what they say."""

import pytest
import torch
from torch import nn

from analysis.common.nets import SHAPES, build


@pytest.mark.parametrize(("net", "depth", "weights"), [
    ("plain", 6, 7), ("plain", 96, 97), ("resnet", 20, 22), ("sew", 20, 22), ("bare", 6, 7),
    ("stages4", 18, 21),
])  # fmt: skip
def test_networks_are_as_deep_as_they_say(net, depth, weights) -> None:
    channels = 3 if net == "stages4" else 2
    model = build(net, depth, "rect", channels, scale=0.5)
    found = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(found) == weights
    assert model(torch.rand(2, 3, channels, 8, 8)).shape == (2, 3, 10)


def test_rectangle_is_one_around_the_threshold() -> None:
    x = torch.tensor([-0.6, -0.4, 0.0, 0.4, 0.6], requires_grad=True)
    spikes = SHAPES["rect"]()(x)
    spikes.sum().backward()
    assert spikes.tolist() == [0, 0, 1, 1, 1] and x.grad.tolist() == [0, 1, 1, 1, 0]
