"""Outputs with time last are read with time in front of the classes."""

import pytest
import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

from sj_shortcut import ShortcutLoss, shortcut_branches, shortcut_logits, wrap_with_shortcuts
from sj_shortcut.neurons import is_spiking_neuron
from sj_shortcut.places.axes import read_times
from sj_shortcut.places.example_pass import run_pass, untouched
from sj_shortcut.places.outputs import has_as_many_as_steps, read_outputs
from tests.nets.written import lif

WIDTH, K = 12, 7


class TimeLast(nn.Module):
    """Layers on ``[T, N, D]`` whose logits are handed out in the order that it is told."""

    def __init__(self, order: tuple[int, ...] = (1, 2, 0), classes: int = K) -> None:
        super().__init__()
        widths = [6, WIDTH, WIDTH, WIDTH]
        parts = [
            (layer.Linear(i, o, step_mode="m"), lif("m"))
            for i, o in zip(widths, widths[1:], strict=False)
        ]
        self.f = nn.Sequential(*(part for pair in parts for part in pair))
        self.fc = nn.Linear(WIDTH, classes)
        self.order = order

    def over_time(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.over_time(self.fc(self.f(x))).permute(self.order)


class Attends(TimeLast):
    """Each time step looks at all others, as those of some networks do."""

    def over_time(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return nn.functional.scaled_dot_product_attention(x, x, x).transpose(0, 1)


class Looped(TimeLast):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(6, WIDTH), lif("s"), nn.Linear(WIDTH, WIDTH), lif("s"))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.fc(self.f(step)) for step in x], -1)


def shape(model: nn.Module, x: Tensor, num_classes: int | None = None) -> tuple[int, ...]:
    with untouched(model):
        seen = run_pass(model, (x,), {}, is_spiking_neuron)
        times = read_times(seen, is_spiking_neuron)
        assert has_as_many_as_steps(len(x), seen, times)
        assert not has_as_many_as_steps(len(x) + 20, seen, times)
        (output,) = read_outputs(seen, times, num_classes)
        return tuple(output.shape)


@pytest.mark.parametrize(("steps", "samples"), [(3, 2), (3, 3), (K, 2), (K, K), (3, K)])
def test_time_is_seen_whatever_the_sizes(steps, samples):
    x = torch.rand(steps, samples, 6)
    last, first = TimeLast(), TimeLast((1, 0, 2))
    with untouched(last):
        by_hand = last(x).transpose(1, 2).shape
    assert shape(last, x) == by_hand == shape(first, x)
    assert shape(TimeLast((0, 1, 2)), x) == (steps, samples, K)
    assert shape(Looped(), x) == (samples, steps, K)


def test_which_axis_was_moved_where_classes_and_steps_are_as_many():
    torch.manual_seed(0)
    x = torch.rand(K, 2, 6) * 2
    for order, moved in (((1, 2, 0), True), ((1, 0, 2), False)):
        model = TimeLast(order)
        with untouched(model):
            seen = run_pass(model, (x,), {}, is_spiking_neuron)
            (output,) = read_outputs(seen, read_times(seen, is_spiking_neuron))
            expected = seen.output.movedim(-1, 1) if moved else seen.output
            assert torch.equal(output, expected)


def test_after_attention_over_time_the_classes_tell():
    x = torch.rand(3, 2, 6)
    assert shape(Attends(), x) == (2, K, 3) and shape(Attends(), x, K) == (2, 3, K)
    assert shape(Attends((1, 0, 2)), x, K) == (2, 3, K)


@pytest.mark.parametrize("example", [True, False])
def test_the_refusal_names_the_argument_that_helps(example):
    x, y = torch.rand(3, 2, 6) * 2, torch.tensor([1, 3])
    settings = {"example_input": x} if example else {}
    with pytest.raises(ValueError, match="if it is time, .*, pass num_classes=") as error:
        wrap_with_shortcuts(Attends(), **settings)
    assert "a per-position (dense) prediction" in str(error.value)
    model = wrap_with_shortcuts(Attends(), num_classes=K, **settings)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    criterion(model(x).mean(-1), y).backward()
    assert {b.num_classes for b in shortcut_branches(model).values()} == {K}
    assert all(logits.shape == (2, K) for logits in shortcut_logits(model).values())


def test_positions_are_no_time():
    class PerToken(TimeLast):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.f(x.expand(3, *x.shape)).mean(0)).transpose(1, 2)

    x = torch.rand(2, 3, 6)  # as many tokens as time steps
    model = PerToken()
    with pytest.raises(ValueError, match="a per-position"):
        wrap_with_shortcuts(model, example_input=x)
    assert shape(model, torch.rand(3, 3, 6)) == (3, K, 3)
