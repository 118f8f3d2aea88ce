"""The first look at a model: on an example, or on a made-up batch that fits it."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer
from torch import Tensor, nn

from sj_shortcut import shortcut_branches, wrap_with_shortcuts
from sj_shortcut.places.first_look import first_look
from tests.nets.small import CLASSES, N, Net, T, images
from tests.nets.written import K, Tokens
from tests.nets.zoo import lif

NAMES = ["layer1.1", "layer2.1"]


def test_on_the_example_alone():
    look = first_look(Net(), images(), NAMES)
    assert look.shapes["layer1.1"] == (T, N, 16) and look.num_classes == CLASSES
    with pytest.raises(ValueError, match="example_input could not be run through Net"):
        first_look(Net(), torch.rand(T, N, 7), NAMES)


def test_on_the_first_made_up_batch_that_fits():
    assert first_look(Net(), None, NAMES).shapes["layer1.1"] == (4, 5, 16)
    assert first_look(nn.Sequential(nn.LazyLinear(3), lif()), None, []) is None


@pytest.mark.parametrize("time", [0, 1])
@pytest.mark.parametrize("width", [4, 5, 7, 8, 16, 20, 12])
def test_a_batch_whose_samples_are_averaged_away_does_not_fit(width, time):
    look = first_look(Tokens(width, time), None, ["b.3"])
    assert (look.refusal, look.num_classes) == ("", K)
    assert look.shapes["b.3"] in {(4, 5, 7, width), (5, 4, 7, width)}
    layout = look.layouts["b.3"]
    assert (layout.time, layout.batch, layout.channel) == (0, 1, 3)


class AveragesRows(Tokens):
    """Keeps time: with one axis less, it is the samples that it averages."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(x).mean(2))


@pytest.mark.parametrize("width", [5, 8])
def test_a_batch_whose_samples_are_mixed_is_not_the_first_choice(width):
    look = first_look(AveragesRows(width), None, ["b.3"])
    assert len(look.shapes["b.3"]) == 4 and not look.mixes


class NoBatch(nn.Module):
    """Averages over its samples, whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(layer.Linear(6, 8), lif(), layer.Linear(8, 8), lif())
        self.fc = nn.Linear(8, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.f(x).flatten(0, -2).mean(0))


def test_where_no_batch_shows_its_samples_there_is_no_look():
    assert first_look(NoBatch(), None, ["f.1"]) is None
    model = wrap_with_shortcuts(NoBatch())  # as its modules tell; the first batch is looked at
    assert list(shortcut_branches(model)) == ["f.1"]
    with pytest.raises(ValueError, match="class logits"):
        model(torch.rand(4, 6))


def test_a_refusal_of_a_made_up_batch_names_the_argument():
    body = [layer.Linear(6, 8), lif(), layer.Linear(8, 8), lif()]
    model = nn.Sequential(*body, nn.Linear(8, 1), nn.Flatten(0))
    refusal = first_look(model, None, ["1"]).refusal
    assert "is a scalar a sample, as in regression" in refusal
    assert "made-up batch [5, 6]: if yours is of another kind, pass example_input=." in refusal
    assert "made-up" not in first_look(model, torch.rand(3, 6), ["1"]).refusal


def test_one_number_a_token_is_no_class_for_each():
    model = nn.Sequential(layer.Linear(6, 8), lif(), layer.Linear(8, 8), lif(), layer.Linear(8, 1))
    functional.set_step_mode(model, "m")
    assert "scalar a sample" in first_look(model, None, ["1"]).refusal
    look = first_look(model, torch.rand(2, 3, 7, 6), ["1"])
    assert "[2, 3, 7, 1] has one row a position or token" in look.refusal
