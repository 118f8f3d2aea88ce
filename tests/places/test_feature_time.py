"""The time axis of a feature, told by the steps of a spiking layer that its slices need."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, neuron
from torch import Tensor, nn

from sj_shortcut import shortcut_points
from tests.nets.zoo import lif
from tests.places.tools import look


def neuron_for(mode: str) -> nn.Module:
    spike = lif()
    functional.set_step_mode(spike, mode)
    return spike


class Block(nn.Module):
    """A layer and its neuron, then time pooled and moved; takes and gives axes in this order."""

    def __init__(self, order: str, wide: int, width: int, pool: int = 1, mode: str = "m") -> None:
        super().__init__()
        self.order, self.pool = order, pool
        self.fc, self.spike = nn.Linear(wide, width), neuron_for(mode)

    def forward(self, x: Tensor) -> Tensor:
        order = ["TNLC".index(axis) for axis in self.order]
        x = self.fc(x.permute(*(order.index(axis) for axis in range(4))))
        looped = self.spike.step_mode == "s"
        x = torch.stack([self.spike(step) for step in x]) if looped else self.spike(x)
        return x.unflatten(0, (-1, self.pool)).mean(1).permute(*order)


class Tower(nn.Module):
    """Two blocks, and a classifier over the average of all positions and steps."""

    def __init__(self, order: str, pool: int = 1, mode: str = "m") -> None:
        super().__init__()
        self.order = order
        self.b = nn.Sequential(Block(order, 3, 8, pool, mode), Block(order, 8, 8, pool, mode))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        order = ["NCTL".index(axis) for axis in self.order]
        x = self.b(x).permute(*(order.index(axis) for axis in range(4)))
        return self.fc(x.mean((2, 3)))

    def example(self, steps: int, length: int) -> Tensor:
        sizes = {"T": steps, "N": 3, "L": length, "C": 3}
        return 2 * torch.rand(*(sizes[axis] for axis in self.order))


@given(
    st.permutations("TNLC"),
    st.sampled_from([1, 2]),
    st.sampled_from([8, 16]),
    st.sampled_from([4, 5, 8]),
    st.sampled_from(["m", "s"]),
)
def test_time_is_seen_wherever_it_went_and_however_long(order, pool, steps, length, mode):
    """Steps are as many as channels or positions, before they are pooled or after."""
    torch.manual_seed(0)
    model = Tower("".join(order), pool, mode)
    points = shortcut_points(model, model.example(steps, length))
    layout = next(point.layout for point in points if point.name == "b.0")
    assert layout is not None
    assert (layout.batch, layout.time, layout.channel) == tuple(map(order.index, "NTC"))


class Averaged(nn.Module):
    """Averages over time where its block ends; channels are as many as steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.fc, self.spike = nn.Linear(3, steps), neuron_for("m")
        self.gone, self.last = nn.Identity(), nn.Linear(steps, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.gone(self.spike(self.fc(x)).mean(0)).mean(1))


def test_what_was_averaged_over_time_has_none():
    torch.manual_seed(0)
    _, layouts, _ = look(Averaged(6), 2 * torch.rand(6, 3, 4, 3), ["gone"])
    assert str(layouts["gone"]) == "NLC"


class Remixed(nn.Module):
    """A layer over time behind the neuron, which makes fewer steps of it."""

    def __init__(self, steps: int, fewer: int) -> None:
        super().__init__()
        self.fc, self.spike, self.mix = nn.Linear(3, 6), neuron_for("m"), nn.Linear(steps, fewer)
        self.mixed, self.last = nn.Identity(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.spike(self.fc(x)).movedim(0, -1)).movedim(-1, 0)
        return self.last(self.mixed(x).mean(0))


@pytest.mark.parametrize(("fewer", "due"), [(8, "TNC"), (4, "None")])
def test_where_steps_are_mixed_time_is_told_by_its_length_or_asked_for(fewer, due):
    torch.manual_seed(0)
    _, layouts, _ = look(Remixed(8, fewer), 2 * torch.rand(8, 3, 3), ["mixed"])
    assert str(layouts["mixed"]) == due


def test_all_steps_pooled_into_one_stay_an_axis():
    torch.manual_seed(0)
    model = Tower("TNLC", 4)
    _, layouts, _ = look(model, model.example(16, 5), ["b.1"])
    assert str(layouts["b.1"]) == "TNLC"


class Twice(nn.Module):
    """Two layers of a block share a neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 5)
        self.spike, self.block = neuron.LIFNode(step_mode="m", v_threshold=0.2), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.spike(self.a(x))
        self.spike.reset()
        return self.last(self.block(self.spike(self.b(x))).mean(0))


def test_a_neuron_that_takes_all_steps_twice_has_time_where_it_has_it_once():
    torch.manual_seed(0)
    _, layouts, _ = look(Twice(), 2 * torch.rand(4, 3, 3), ["block"])
    assert str(layouts["block"]) == "TNC"


class Before(nn.Module):
    """A layer before the first neuron, which has its time elsewhere; channels are as many."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.spike, self.last = nn.Linear(3, 6), neuron_for("m"), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:  # [N, T, L, C]
        return self.last(self.spike(self.stem(x).transpose(0, 1)).mean((0, 2)))


def test_time_before_the_first_neuron_is_seen_by_what_that_needs():
    torch.manual_seed(0)
    _, layouts, _ = look(Before(), 2 * torch.rand(3, 6, 6, 3), ["stem"])
    assert str(layouts["stem"]) == "NTLC"


class Image(nn.Module):
    """A stem before the loop over time, which gives each step the same map, as long as steps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.spike, self.last = nn.Conv1d(3, 6, 1), neuron_for("s"), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.last(torch.stack([self.spike(x) for _ in range(4)]).mean((0, 3)))


def test_an_image_that_is_given_to_each_step_has_no_time():
    torch.manual_seed(0)
    _, layouts, _ = look(Image(), 2 * torch.rand(3, 3, 4), ["stem"])
    assert str(layouts["stem"]) == "NCL"
