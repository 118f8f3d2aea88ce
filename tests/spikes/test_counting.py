import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn

from sj_shortcut import wrap_with_shortcuts
from sj_shortcut.places import Layout
from sj_shortcut.spikes.counting import Counting
from tests.nets.small import Net, images


def counted(model: nn.Module, x: torch.Tensor, **options: object) -> Counting:
    counting = Counting(model, **options)
    counting.watch()
    with torch.no_grad(), counting:
        model(x)
    return counting


def test_operations_belong_to_the_innermost_module() -> None:
    tallies = counted(Net(), images()).tallies
    assert [name for name, t in tallies.items() if t.products] == [
        "layer1.0", "layer2.0", "layer3.0", "fc"
    ]  # fmt: skip
    assert tallies["layer1.0"].only_spikes is False and tallies["fc"].only_spikes is True
    assert tallies["layer1.1"].kind == "neurons" and tallies["layer1"].kind == "other"
    assert "layer1.1.surrogate_function" not in tallies


def test_heads_are_left_out() -> None:
    names = Counting(wrap_with_shortcuts(Net())).tallies
    assert list(names) == list(Counting(Net()).tallies)


def test_what_runs_inside_neurons_is_theirs() -> None:
    if not hasattr(neuron, "PSN"):
        pytest.skip("this SpikingJelly has no PSN")
    model = nn.Sequential(neuron.PSN(T=2))
    tally = counted(model, torch.rand(2, 3, 4)).tallies["0"]
    assert tally.dense == 2 * 2 * 3 * 4


def test_axes_by_layout_where_step_modes_do_not_tell() -> None:
    class Own(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x > 0.5).float()

    x = torch.rand(5, 7, 3)  # [N, C, T]
    unknown = counted(nn.Sequential(Own()), x, neuron_types=(Own,))
    assert unknown.unresolved() == ["0"] and unknown.tallies["0"].each is None
    layout = Layout(3, batch=0, channel=1, time=2)
    known = counted(nn.Sequential(Own()), x, neuron_types=(Own,), layouts={"0": layout})
    tally = known.tallies["0"]
    assert not known.unresolved() and tally.rows == 15 and tally.each.shape == (7,)
    assert torch.equal(tally.each, (x > 0.5).sum((0, 2)))
    known.forget()
    assert tally.each is None and tally.places == 0 and tally.turn == -1


def test_samples_of_several_sizes_have_no_neurons_in_common() -> None:
    model = nn.Sequential(neuron.IFNode())
    counting = Counting(model, samples=2)
    counting.watch()
    with torch.no_grad(), counting:
        model(torch.rand(2, 3))
        model[0].reset()
        model(torch.rand(2, 4))
    assert counting.tallies["0"].unknown and counting.tallies["0"].places == 14
