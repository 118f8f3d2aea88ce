"""The axes of features and outputs, told by where gradients arrive."""

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, layer
from torch import Tensor, nn

from sj_shortcut.neurons import is_spiking_neuron
from sj_shortcut.places.axes import find_layouts, reached, read_output, read_times
from sj_shortcut.places.example_pass import run_pass, untouched
from sj_shortcut.places.time_axis import TimeAxis
from tests.nets.small import Net, images
from tests.nets.zoo import lif


class Conv(nn.Module):
    """Features ``[T, N, C, L]`` in step mode 'm', else ``[N, C, L]``."""

    def __init__(self, channels: int, length: int, mode: str) -> None:
        super().__init__()
        self.conv, self.spike = layer.Conv1d(2, channels, 3, padding=1), lif()
        self.flatten, self.fc = layer.Flatten(), layer.Linear(channels * length, 3)
        functional.set_step_mode(self, mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flatten(self.spike(self.conv(x))))


class Turned(nn.Module):
    """The features of another network with their axes in another order, and its output."""

    def __init__(self, net: Conv, order: tuple[int, ...], out: str) -> None:
        super().__init__()
        self.net, self.order, self.out = net, order, out
        self.turn, self.turn_back = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        net, back = self.net, [self.order.index(axis) for axis in range(len(self.order))]
        x = self.turn(net.spike(net.conv(x)).permute(*self.order))
        x = net.fc(net.flatten(x.permute(*back)))
        return x.mean(0) if self.out == "mean" else x.transpose(0, 1) if self.out == "NTK" else x


def look(model: nn.Module, x: Tensor, names: list[str]):
    with untouched(model):
        seen = run_pass(model, (x,), {}, is_spiking_neuron, names)
        times = read_times(seen, is_spiking_neuron)
        axes = read_output(seen, seen.output, times)
        return axes, find_layouts(seen, axes, times, names), times


sizes = st.integers(2, 5)


@given(sizes, sizes, sizes, sizes, st.sampled_from(["mean", "TNK", "NTK"]))
def test_whatever_the_sizes_the_axes_of_spikingjellys_order_are_seen(t, n, c, length, out):
    torch.manual_seed(0)
    model = Turned(Conv(c, length, "m"), (0, 1, 2, 3), out)
    axes, layouts, times = look(model, 4 * torch.rand(t, n, 2, length), ["net.spike", "turn"])
    assert axes.samples == n and not axes.positions and not axes.scalars
    assert {name: str(layout) for name, layout in layouts.items()} == {
        "net.spike": "TNCL",
        "turn": "TNCL",
    }
    assert times == {"net.spike": TimeAxis(0, t)}


@given(st.permutations("TNCL"), st.permutations([2, 3, 4, 5]))
def test_axes_are_seen_wherever_they_were_moved(order, lengths):
    t, n, c, length = lengths
    torch.manual_seed(0)
    model = Turned(Conv(c, length, "m"), tuple(map("TNCL".index, order)), "mean")
    _, layouts, _ = look(model, 4 * torch.rand(t, n, 2, length), ["turn"])
    assert str(layouts["turn"]) == "".join(order)


@given(sizes, sizes, sizes)
def test_a_single_step_has_no_time(n, c, length):
    torch.manual_seed(0)
    assume(len({n, c, length}) == 3)
    axes, layouts, times = look(Conv(c, length, "s"), 4 * torch.rand(n, 2, length), ["spike"])
    assert (axes.samples, axes.folded) == (n, (0, True))
    assert str(layouts["spike"]) == "NCL" and times == {"spike": TimeAxis()}


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


class Folded(nn.Module):
    """Folds time into the batch before its last block."""

    def __init__(self, time_first: bool = True) -> None:
        super().__init__()
        self.time_first = time_first
        self.net, self.last = nn.Sequential(layer.Linear(8, 6), lif()), nn.Linear(6, 4)
        self.fold = nn.Identity()
        functional.set_step_mode(self.net, "m")

    def forward(self, x: Tensor) -> Tensor:
        x = self.net(x) if self.time_first else self.net(x).transpose(0, 1)
        return self.last(self.fold(x.flatten(0, 1)))


@given(sizes, sizes, st.booleans())
def test_time_folded_into_the_rows_is_seen(t, n, time_first):
    torch.manual_seed(0)
    axes, layouts, _ = look(Folded(time_first), 4 * torch.rand(t, n, 8), ["net.1", "fold"])
    assert axes.samples == n and axes.folded == (t, time_first)
    assert str(layouts["net.1"]) == "TNC"
    assert str(layouts["fold"]) == (f"({t}N)C" if time_first else f"(N{t})C")


def test_a_dense_output_has_positions():
    class Dense(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x).mean(0)
            return torch.stack([x, 2 * x, 3 * x, x, x], 1)

    axes, _, _ = look(Dense(), images(), [])
    assert axes.positions


def test_one_number_a_sample_and_step_is_no_row_of_classes():
    class Scalars(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[..., 0]

    axes, _, _ = look(Scalars(), images(), [])
    assert axes.scalars and axes.samples == 3


def test_what_an_output_depends_on_is_reached():
    class TwoHeads(Net):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.layer1(x)
            return 2 * x.mean(0), self.fc(self.layer3(self.layer2(x))).mean(0)

    model = TwoHeads()
    with untouched(model):
        seen = run_pass(model, (images(),), {}, is_spiking_neuron)
        first, second = (reached(seen, output) for output in seen.output)
    assert first == {"layer1.0", "layer1.1", "layer1", ""}
    before_fc = {f"layer{i}{part}" for i in (1, 2, 3) for part in ("", ".0", ".1")}
    assert second == {*before_fc, "fc"}
