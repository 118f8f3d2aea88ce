"""Where single spiking layers have their time: by their class, or as seen when they run alone."""

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from sj_shortcut import wrap_with_shortcuts
from sj_shortcut.places.time_axis import TimeAxis, indices, time_axis
from sj_shortcut.shortcuts.hooks import forwards_of
from tests.nets.small import Fire, StatelessNet, images

T, N, C = 3, 4, 5


class Own(nn.Module):
    """A leaky neuron that knows nothing of SpikingJelly, with time on any axis or folded."""

    def __init__(self, axis: int | None, folded: str = "") -> None:
        super().__init__()
        self.axis, self.folded = axis, folded

    def forward(self, x: Tensor) -> Tensor:
        if self.axis is None:
            return spikes(x - 0.5)
        if self.folded == "TN":
            return self._run(x.unflatten(0, (T, -1)), 0).flatten(0, 1)
        if self.folded == "NT":
            return self._run(x.unflatten(0, (-1, T)), 1).flatten(0, 1)
        return self._run(x, self.axis)

    @staticmethod
    def _run(x: Tensor, axis: int) -> Tensor:
        v, out = torch.zeros_like(x.select(axis, 0)), []
        for step in x.unbind(axis):
            v = 0.5 * v + step
            out.append(spikes(v - 0.5))
        return torch.stack(out, axis)


def spikes(v: Tensor) -> Tensor:
    smooth = torch.sigmoid(4 * v)
    return (v >= 0).to(v) + smooth - smooth.detach()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_time_on_any_axis_is_seen(axis):
    shape = [N, C]
    shape.insert(axis, T)
    seen = time_axis(Own(axis), (torch.rand(shape),), {}, tuple(shape))
    assert seen == TimeAxis(axis, T)


@pytest.mark.parametrize(("folded", "time_first"), [("TN", True), ("NT", False)])
def test_time_folded_into_the_batch_is_seen(folded, time_first):
    seen = time_axis(Own(0, folded), (torch.rand(T * N, C),), {}, (T * N, C))
    assert seen == TimeAxis(0, T, folded=True, time_first=time_first)


def test_a_neuron_without_memory_has_one_step_a_call():
    assert time_axis(Own(None), (torch.rand(N, C),), {}, (N, C)) == TimeAxis()


@pytest.mark.parametrize(("mode", "due"), [("m", TimeAxis(0, T)), ("s", TimeAxis())])
@pytest.mark.parametrize("cls", [neuron.LIFNode, Fire])
def test_spikingjellys_step_mode_tells(cls, mode, due):
    """Of its own neurons, and of those that remember nothing by which it could be seen."""
    assert time_axis(cls(step_mode=mode), (torch.rand(T, N, C),), {}, (T, N, C)) == due


def test_a_network_of_neurons_without_memory_has_time():
    model = wrap_with_shortcuts(StatelessNet())
    model(images())
    assert {str(layout) for layout in forwards_of(model).layouts.values()} == {"TNC"}


class Recurrent(nn.Module):
    """One time step of a layer with weights among its own neurons."""

    def __init__(self, weights: nn.Module) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        return spikes(x + self.weights(spikes(x)) - 0.5)


class OwnParallel(nn.Module):
    """All time steps at once, each weighed for every other, as PSN does."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Linear(T, T)

    def forward(self, x: Tensor) -> Tensor:
        return spikes(self.weights(x.movedim(0, -1)).movedim(-1, 0) - 0.5)


def test_weights_among_the_neurons_of_one_step_are_no_time():
    torch.manual_seed(0)
    assert time_axis(Recurrent(nn.Linear(C, C)), (torch.rand(N, C),), {}, (N, C)) == TimeAxis()


@pytest.mark.parametrize(
    ("weights", "shape"), [(nn.Linear(C, C), (N, 7, C)), (nn.Conv2d(C, C, 1), (N, C, 6, 6))]
)
def test_where_weights_among_neurons_could_be_those_of_time_it_is_not_known(weights, shape):
    torch.manual_seed(0)
    assert not time_axis(Recurrent(weights), (torch.rand(shape),), {}, shape).known


def test_time_whose_steps_are_weighed_for_each_other_is_seen_on_the_first_axis():
    torch.manual_seed(0)
    assert time_axis(OwnParallel(), (torch.rand(T, N, C),), {}, (T, N, C)) == TimeAxis(0, T)


@pytest.mark.skipif(not hasattr(neuron, "PSN"), reason="SpikingJelly 2.0.0 only")
def test_weights_of_a_parallel_neuron_are_those_of_time():
    class BatchFirst(neuron.PSN):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.transpose(0, 1)).transpose(0, 1)

    torch.manual_seed(0)
    psn = BatchFirst(T)
    assert time_axis(psn, (torch.rand(N, T, C),), {}, (N, T, C)) == TimeAxis(1, T)


def test_what_cannot_be_run_alone_is_not_known():
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("without its network it does not run")

    assert not time_axis(Fails(), (torch.rand(N, C),), {}, (N, C)).known


def test_indices_of_what_is_marked_by_axis():
    marked = torch.zeros(2, 3, 4, dtype=torch.bool)
    marked[1, 0, 3] = marked[1, 2, 3] = True
    assert indices(marked) == [{1}, {0, 2}, {3}]
    assert indices(marked[1, 0]) == [{3}]
