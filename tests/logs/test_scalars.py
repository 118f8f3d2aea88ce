"""Numbers by flat names."""

import pandas as pd
import torch
from torch import nn

from sj_shortcut import ConstantSchedule, ShortcutLoss, wrap_with_shortcuts
from sj_shortcut.logs.scalars import layer_scalars, shortcut_scalars
from tests.nets.small import Net, images, labels


def test_weights_multiply_lambda():
    model = wrap_with_shortcuts(Net())
    weights = {"layer1.1": 0.5}
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(0.4), weights=weights)
    assert shortcut_scalars(model, criterion) == {"lambda/layer1.1": 0.2, "lambda/layer2.1": 0.4}
    total = criterion(model(images()).mean(0), labels())
    scalars = shortcut_scalars(model, criterion)
    assert scalars["loss/total"] == total.item()
    parts = [scalars["loss/main"], 0.2 * scalars["loss/layer1.1"], 0.4 * scalars["loss/layer2.1"]]
    assert torch.isclose(torch.tensor(sum(parts)), total.detach())


def test_losses_of_each_sample_are_logged_as_their_means():
    model = wrap_with_shortcuts(Net())
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(reduction="none"), price=True)
    total = criterion(model(images()).mean(0), labels())
    scalars = shortcut_scalars(model, criterion)
    assert total.ndim == 1 and scalars["loss/total"] == total.mean().item()
    assert scalars["loss/layer1.1"] == criterion.parts["layer1.1"].mean().item()


def test_what_is_missing_is_left_out():
    frame = pd.DataFrame({"layer": ["a", "b"], "coherence": [float("nan"), 0.5]})
    assert layer_scalars(frame, ["coherence"]) == {"coherence/b": 0.5}
