"""Spikes of a network, layer by layer."""

import torch
from torch import nn

from analysis.common.firing import spikes_counted
from analysis.common.nets import lif


def test_spikes_are_counted() -> None:
    model = nn.Sequential(lif("atan"), nn.Hardtanh(0, 0.5), lif("atan"))
    with spikes_counted(model) as counted:
        model(torch.tensor([2.0, 0.0, 3.0, 0.1]))
    assert counted == [{"spikes": 2, "places": 4}, {"spikes": 0, "places": 4}]
    assert not any(layer._forward_hooks for layer in model)


def test_spikes_in_half_precision_are_counted_one_by_one() -> None:
    model = lif("atan")
    with spikes_counted(model) as counted:
        model(torch.full((1, 1001), 2.0, dtype=torch.bfloat16))
    assert counted == [{"spikes": 1001, "places": 1001}]
