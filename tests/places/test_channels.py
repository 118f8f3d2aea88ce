"""The channel axis, told by layers and norms before a feature."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from sj_shortcut import shortcut_points
from tests.nets.zoo import lif
from tests.places.tools import look


class Narrow(nn.Module):
    """A block of one channel whose skip, of two, runs before its first spiking layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.skip = layer.Conv2d(1, 1, 1), layer.Conv2d(1, 2, 1, stride=(2, 1))
        self.spike, self.conv = lif(), layer.Conv2d(1, 2, 1, stride=(2, 1))
        self.last = layer.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.skip(x) + self.conv(self.spike(x))
        return self.last(x.flatten(1))


def test_a_layer_beside_the_feature_does_not_tell_its_channels():
    torch.manual_seed(0)
    _, layouts, _ = look(Narrow(), 4 * torch.rand(3, 1, 2, 1), ["spike"])
    assert str(layouts["spike"]) == "NCHW"


class SideBySide(nn.Module):
    """Two channels beside two others that are mixed, on a map as long as there are channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.spike = layer.Conv1d(2, 2, 1), lif()
        self.body = nn.Sequential(
            layer.Conv1d(2, 2, 1), layer.Conv1d(2, 2, 1), nn.LayerNorm([2, 2])
        )
        self.both, self.last = nn.Identity(), layer.Linear(8, 3)
        with torch.no_grad():
            self.body[1].weight[:, 0] = 0  # one channel leads nowhere

    def forward(self, x: Tensor) -> Tensor:
        x = self.spike(self.conv(x))
        return self.last(self.both(torch.cat([self.body(x), x], 1)).flatten(1))


def test_a_size_alone_does_not_make_positions_channels():
    """The convolution's width is that of the map, and no longer that of the channels."""
    torch.manual_seed(0)
    _, layouts, _ = look(SideBySide(), 4 * torch.rand(3, 2, 2), ["both"])
    assert str(layouts["both"]) == "NCL"


class MixedBeforeTokens(nn.Module):
    """Channels that a norm mixes, and then a layer that takes as many positions as features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.spike = layer.Conv1d(2, 2, 1), nn.GroupNorm(1, 2), lif()
        self.tokens, self.last = layer.Linear(2, 4), layer.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.spike(self.norm(self.conv(x)))
        return self.last(self.tokens(x.transpose(1, 2)).mean(1))


def test_where_all_is_mixed_channels_are_where_the_layer_before_has_them():
    torch.manual_seed(0)
    _, layouts, _ = look(MixedBeforeTokens(), 4 * torch.rand(3, 2, 2), ["spike"])
    assert str(layouts["spike"]) == "NCL"


class TokensInside(nn.Module):
    """A block that turns its feature to tokens and back, on a map as long as there are channels."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.spike = layer.Linear(4, 4), nn.LayerNorm(4), lif()

    def forward(self, x: Tensor) -> Tensor:
        return self.spike(self.norm(self.linear(x.transpose(1, 2)))).transpose(1, 2)


def test_a_norm_that_mixed_the_channels_tells_them_itself():
    torch.manual_seed(0)
    model = nn.Sequential(TokensInside(), layer.Flatten(), layer.Linear(16, 3))
    _, layouts, _ = look(model, 4 * torch.rand(3, 4, 4), ["0", "0.spike"])
    assert (str(layouts["0"]), str(layouts["0.spike"])) == ("NCL", "NLC")
    assert layouts["0"].sure and layouts["0.spike"].sure


class NormOverAll(nn.Module):
    """Tokens as wide as the map of a block that ends in a layer norm over channels and space."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.spike = layer.Linear(2, 3), neuron.LIFNode(v_threshold=0.1)
        self.body = nn.Sequential(
            layer.Conv2d(3, 2, 1, 2, bias=False),
            layer.BatchNorm2d(2),
            neuron.LIFNode(v_threshold=0.1),
            layer.Conv2d(2, 2, 3, padding=1, bias=False),
            nn.LayerNorm([2, 2, 3]),
        )
        self.fc = layer.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.spike(self.linear(x.flatten(2).mT))
        return self.fc(self.body(tokens.mT.unflatten(2, x.shape[2:])).flatten(1))


def test_a_size_alike_in_an_earlier_layer_does_not_tell_channels() -> None:
    """A slice of any axis comes from all channels; the tokens are as wide as the map."""
    torch.manual_seed(0)
    points = shortcut_points(NormOverAll(), torch.rand(3, 2, 4, 6))
    body = next(point for point in points if point.name == "body")
    assert (body.channels, body.layout.channel) == (2, 1)


class Mixer(nn.Module):
    """Channels and tokens mixed by a layer each, in this order; the tokens by either kind."""

    def __init__(self, order: str, kind: type, tokens: int, width: int) -> None:
        super().__init__()
        self.order, self.embed = order, nn.Linear(6, width)
        self.channels, self.tokens = nn.Linear(width, width), nn.Linear(tokens, tokens)
        if kind is nn.Conv1d:
            self.tokens = nn.Conv1d(tokens, tokens, 1)
        self.spikes = nn.ModuleList([lif(), lif()])
        self.block, self.last = nn.Identity(), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for what in self.order:
            if what == "C":
                x = x + self.spikes[0](self.channels(x))
            elif isinstance(self.tokens, nn.Conv1d):
                x = x + self.spikes[1](self.tokens(x))
            else:
                x = x + self.spikes[1](self.tokens(x.mT)).mT
        return self.last(self.block(x).mean(1))


@pytest.mark.parametrize("width", [5, 7])
@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv1d])
@pytest.mark.parametrize(("order", "due"), [("LC", "NLC"), ("CL", "None")])
def test_tokens_mixed_by_weights_are_not_taken_for_channels(order, due, kind, width):
    torch.manual_seed(0)
    _, layouts, _ = look(Mixer(order, kind, 7, width), 2 * torch.rand(4, 7, 6), ["block"])
    assert str(layouts["block"]) == due


class BehindTokens(nn.Module):
    """Channels beside each other behind a norm of channels and space; tokens before were as wide
    as the map is."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Sequential(nn.Linear(3, 3), neuron.LIFNode(v_threshold=0.1))
        self.conv, self.norm = layer.Conv2d(3, 3, 1), nn.LayerNorm((3, 5, 3))
        self.spike = neuron.LIFNode(v_threshold=0.1)
        self.classifier = nn.Linear(90, 4)
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens(x.flatten(3).transpose(2, 3)).transpose(2, 3).reshape(x.shape)
        both = torch.cat([tokens, self.norm(self.conv(tokens))], 2)
        return self.classifier(self.spike(both).flatten(2)).mean(0)


def test_a_layer_further_away_whose_channels_lie_elsewhere_does_not_tell_by_size():
    torch.manual_seed(0)
    points = shortcut_points(BehindTokens(), 3 * torch.rand(2, 4, 3, 5, 3))
    assert {point.name: point.channels for point in points}["spike"] == 6
