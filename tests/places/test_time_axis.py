"""Where single spiking layers have their time: by their class, or as seen when they run alone."""

from collections.abc import Callable

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from sj_shortcut import wrap_with_shortcuts
from sj_shortcut.places.time_axis import TimeAxis, indices, time_axis
from sj_shortcut.shortcuts.hooks import forwards_of
from tests.nets.small import Fire, StatelessNet, images

T, N, C = 3, 4, 5

Fires = Callable[[Tensor], Tensor]


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


class _Narrow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v >= 0).to(v)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        return grad * (v.abs() < 0.5).to(grad)


def narrow_spikes(v: Tensor) -> Tensor:
    return _Narrow.apply(v)


def spikes_without_gradients(v: Tensor) -> Tensor:
    return (v >= 0).to(v)


class Recurrent(nn.Module):
    """One time step of a layer with weights among its own neurons."""

    def __init__(self, weights: nn.Module, fire: Fires) -> None:
        super().__init__()
        self.weights, self.fire = weights, fire

    def forward(self, x: Tensor) -> Tensor:
        return self.fire(x + self.weights(self.fire(x)) - 0.5)


class RecurrentInTime(nn.Module):
    """All time steps, batch first; the spikes of one reach all neurons at the next."""

    def __init__(self, fire: Fires) -> None:
        super().__init__()
        self.weights, self.fire = nn.Linear(C, C), fire

    def forward(self, x: Tensor) -> Tensor:
        v = out = torch.zeros_like(x[:, 0])
        steps = []
        for step in x.unbind(1):
            v = 0.5 * v + step + self.weights(out)
            out = self.fire(v - 0.5)
            steps.append(out)
        return torch.stack(steps, 1)


class OwnParallel(nn.Module):
    """All time steps at once, each weighed for every other, as PSN does."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Linear(T, T)

    def forward(self, x: Tensor) -> Tensor:
        return spikes(self.weights(x.movedim(0, -1)).movedim(-1, 0) - 0.5)


SEEDS = range(40)


def seen_at(seed: int, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> TimeAxis:
    torch.manual_seed(seed)
    return time_axis(make(), (torch.rand(shape),), {}, shape)


def recurrent(fire: Fires, weights: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Recurrent(weights(), fire)


@pytest.mark.parametrize("fire", [spikes, narrow_spikes])
def test_weights_among_the_neurons_of_one_step_are_no_time(fire):
    make = recurrent(fire, lambda: nn.Linear(C, C))
    assert {seen_at(seed, make, (N, C)) for seed in SEEDS} == {TimeAxis()}


@pytest.mark.parametrize("fire", [spikes, narrow_spikes, spikes_without_gradients])
@pytest.mark.parametrize(
    ("weights", "shape"),
    [
        (lambda: nn.Linear(C, C), (N, 7, C)),
        (lambda: nn.Conv2d(C, C, 1), (N, C, 6, 6)),
        (lambda: nn.Conv2d(C, C, 3, padding=1), (N, C, 6, 6)),
        (lambda: nn.Conv2d(C, C, 3, padding=1, groups=C), (N, C, 6, 6)),
        (lambda: nn.AvgPool2d(3, 1, 1), (N, C, 6, 6)),
        (lambda: nn.AdaptiveAvgPool2d((1, None)), (N, C, 6, 6)),
    ],
    ids=["linear", "pointwise", "convolution", "depthwise", "neighbours", "rows"],
)
def test_where_weights_among_neurons_could_be_those_of_time_it_is_not_known(weights, shape, fire):
    make = recurrent(fire, weights)
    assert {seen_at(seed, make, shape) for seed in SEEDS} == {TimeAxis(known=False)}


@pytest.mark.parametrize("fire", [spikes, narrow_spikes])
def test_time_is_seen_beside_weights_among_the_neurons(fire):
    """Each step is weighed for the next one: only the time runs one way."""
    shape = (N, T, C)
    found = {seen_at(seed, lambda: RecurrentInTime(fire), shape) for seed in SEEDS}
    assert found == {TimeAxis(1, T)}


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
