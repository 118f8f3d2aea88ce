"""The axes of features and outputs, told by where gradients arrive."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from sj_shortcut.neurons import is_spiking_neuron
from sj_shortcut.places.axes import reached
from sj_shortcut.places.example_pass import run_pass, untouched
from sj_shortcut.places.time_axis import TimeAxis
from tests.nets.small import Net, images
from tests.nets.zoo import lif
from tests.places.tools import look


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


class Around(nn.Module):
    """A block that gives back its input this time, then a spiking layer; features [N, T, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.spike = nn.Identity(), lif()
        self.last = layer.Linear(8, 3)
        functional.set_step_mode(self.spike, "m")

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return self.last(self.spike(x.transpose(0, 1)).transpose(0, 1))


def test_time_before_the_first_spiking_layer_is_as_that_has_it():
    torch.manual_seed(0)
    _, layouts, _ = look(Around(), 4 * torch.rand(2, 2, 8), ["block"])
    assert layouts["block"] is not None and layouts["block"].has_time


class Windows(nn.Module):
    """Cuts positions into windows, which are rows beside or between the samples."""

    def __init__(self, windows: int, slow: bool) -> None:
        super().__init__()
        self.windows, self.slow = windows, slow
        self.fc, self.spike = nn.Linear(2, 5), neuron.LIFNode(step_mode="m")

    def forward(self, x: Tensor) -> Tensor:
        cut = x.unflatten(2, (self.windows, -1))
        rows = cut.transpose(1, 2) if self.slow else cut
        return (
            self.spike(self.fc(rows.flatten(1, 2)))
            .unflatten(1, rows.shape[1:3])
            .mean((0, 3, 1 if self.slow else 2))
        )


@pytest.mark.parametrize(("slow", "due"), [(True, "T(4N)LC"), (False, "T(N4)LC")])
def test_time_is_seen_beside_windows_that_are_folded_into_the_batch(slow, due):
    torch.manual_seed(0)
    _, layouts, _ = look(Windows(4, slow), 4 * torch.rand(3, 2, 24, 2), ["spike"])
    assert str(layouts["spike"]) == due
