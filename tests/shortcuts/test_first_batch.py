"""The first real batch of a kind is looked at once more, and settles what was guessed."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from spikingjelly.activation_based import functional, layer, surrogate
from torch import Tensor, nn

from sj_shortcut import ShortcutLoss, shortcut_branches, shortcut_logits, wrap_with_shortcuts
from sj_shortcut.places import look_at
from sj_shortcut.shortcuts.first_batch import kind_of_input, settle
from sj_shortcut.shortcuts.hooks import forwards_of
from tests.nets import random_parts as parts
from tests.nets.random_blocks import Tokens
from tests.nets.random_nets import Plan
from tests.nets.random_neurons import OWN_CLASSES
from tests.nets.small import CLASSES, Fire, N, Net, images
from tests.nets.zoo import lif


def count_calls(model: nn.Module) -> list[int]:
    """Not by a hook, which a look may leave out."""
    calls: list[int] = []
    forward = model.fc.forward
    model.fc.forward = lambda x: calls.append(1) or forward(x)
    return calls


def test_only_the_first_batch_of_a_kind_is_looked_at():
    model = wrap_with_shortcuts(Net())
    calls = count_calls(model)
    model(images())
    looked = len(calls)
    assert looked > 1
    for batch in (images(), images(5)):
        functional.reset_net(model)
        model(batch)
    assert len(calls) == looked + 2


def test_an_example_is_looked_at_when_wrapping_and_not_again():
    model = wrap_with_shortcuts(Net(), example_input=images())
    calls = count_calls(model)
    model(images())
    assert len(calls) == 1


@pytest.mark.parametrize("how", ["eval", "no_grad"])
def test_nothing_is_looked_at_where_heads_rest(how):
    model = wrap_with_shortcuts(Net()).train(how != "eval")
    calls = count_calls(model)
    with torch.set_grad_enabled(how != "no_grad"):
        model(images())
    assert len(calls) == 1


def test_another_step_mode_or_number_of_axes_is_another_kind():
    kinds = [
        kind_of_input((torch.rand(2, 3),), {}, "m"),
        kind_of_input((torch.rand(2, 3),), {}, "s"),
        kind_of_input((torch.rand(4, 2, 3),), {}, "m"),
        kind_of_input((torch.rand(2, 3), torch.rand(1)), {}, "m"),
    ]
    assert all(a != b for i, a in enumerate(kinds) for b in kinds[:i])
    assert kind_of_input((), {"x": torch.rand(7, 9)}, "m") == kinds[0]


class Backwards(nn.Module):
    """Takes no made-up batch, and is defined in another order than it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Sequential(layer.Linear(8, 6), lif())
        self.middle = nn.Sequential(layer.Linear(8, 8), lif())
        self.shallow = nn.Sequential(layer.Linear(4, 8), lif())
        self.fc = layer.Linear(6, 3)

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        return self.fc(self.deep(self.middle(self.shallow(x * gain))))


def test_the_first_batch_settles_the_order():
    model = wrap_with_shortcuts(Backwards(), ["middle.1", "shallow.1"], num_classes=3)
    assert list(shortcut_branches(model)) == ["middle.1", "shallow.1"]
    model(torch.rand(2, 4), torch.ones(1))
    assert list(shortcut_branches(model)) == ["shallow.1", "middle.1"]


def test_a_layout_that_is_told_goes_before_what_is_seen():
    model = wrap_with_shortcuts(Net(), layout={"layer1.1": "TNC"})
    model(images())
    assert {str(layout) for layout in forwards_of(model).layouts.values()} == {"TNC"}
    with pytest.raises(ValueError, match="names 4 axes, but the feature has 3"):
        wrap_with_shortcuts(Net(), layout="NTLC", example_input=images())
    model = wrap_with_shortcuts(Net(), layout="NTLC")
    with pytest.raises(ValueError, match="names 4 axes, but the feature has 3"):
        model(images())


class EitherWay(nn.Module):
    """Runs on ``[N, C]`` as well as with time in front: a made-up batch has none."""

    def __init__(self, spikes: Callable[[], nn.Module] = Fire) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Linear(8, 16), spikes())
        self.layer2 = nn.Sequential(nn.Linear(16, 12), spikes())
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        for spikes in (self.layer1[1], self.layer2[1]):
            spikes.in_network = True
        x = self.fc(self.layer2(self.layer1(x)))
        for spikes in (self.layer1[1], self.layer2[1]):
            spikes.in_network = False
        return x.mean(0) if x.ndim == 3 else x


class Threshold(nn.Module):
    """A neuron of which nothing tells whether it has time."""

    def __init__(self) -> None:
        super().__init__()
        self.surrogate = surrogate.ATan()

    def forward(self, x: Tensor) -> Tensor:
        return self.surrogate(x - 0.1)


class Needy(Threshold):
    """One that runs inside its network alone, so that no axis of it can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.in_network = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.in_network:
            raise RuntimeError("without its network it does not run")
        return super().forward(x)


@pytest.mark.parametrize(
    ("spikes", "layout"), [(Fire, "TNC"), (Threshold, "TNC..."), (Needy, {"layer1.1": "TNC"})]
)
def test_a_layout_waits_for_the_first_batch_where_a_made_up_one_has_other_axes(spikes, layout):
    model = wrap_with_shortcuts(
        EitherWay(spikes), "layer1.1", layout=layout, neuron_types=(Threshold,)
    )
    model(images())
    assert {str(seen) for seen in forwards_of(model).layouts.values()} == {"TNC"}
    assert shortcut_branches(model)["layer1.1"].channels == 16
    assert shortcut_logits(model)["layer1.1"].shape == (N, CLASSES)


def test_a_layout_that_does_not_fit_the_users_data_is_refused():
    with pytest.raises(ValueError, match='"TNC" names 3 axes, but the feature has 2'):
        wrap_with_shortcuts(EitherWay(), layout="TNC", example_input=images()[0])
    model = wrap_with_shortcuts(EitherWay(), layout="TNC")
    with pytest.raises(ValueError, match='"TNC" names 3 axes, but the feature has 2'):
        model(images()[0])


class Aside(Net):
    """An auxiliary branch that does not lead to the output, unknown until it runs."""

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        x = self.layer1(x * gain)
        self.seen = self.layer2(x)
        return self.fc(torch.cat([x[..., :6]], -1))


def test_a_side_branch_is_refused_at_the_first_batch():
    model = wrap_with_shortcuts(Aside(), "layer2.1")
    with pytest.raises(RuntimeError, match="does not depend on 'layer2.1'.*side branch"):
        model(images(), torch.ones(1))


def test_what_sizes_told_when_wrapping_holds_where_those_of_the_first_batch_are_equal():
    """One channel arrives at most, so that nothing but sizes tells channels from positions."""
    torch.manual_seed(0)
    neuron = {"v_reset": 0.0, "detach_reset": False, "T": 1, "channels": 4, "recurrent": False}
    own = parts.Fire(family="LIFNode beside", threshold=0.3, tau=2.0, own=True, **neuron)
    last = parts.Fire(family="KLIFNode", threshold=0.05, tau=1.3, own=False, **neuron)
    blocks = [Tokens(inputs, 4, 1, True, spike) for inputs, spike in ((3, own), (4, last))]
    chain = parts.Chain((*blocks, parts.Squeeze(1), parts.Flatten(), parts.Weigh(4, 3, 0)), "list")
    plan = Plan(chain, "s", T=1, N=1, shape=(3, 4), classes=3)
    model = wrap_with_shortcuts(plan.model(), ["parts.0"], neuron_types=OWN_CLASSES)
    model(plan.sequence(more=2)[0])
    assert str(forwards_of(model).layouts["parts.0"]) == "NCL"


class Often(nn.Module):
    """Runs a spiking layer on features ``[N, T, C]``, or leaves it out."""

    def __init__(self) -> None:
        super().__init__()
        self.spike, self.dropped = lif(), False

    def forward(self, x: Tensor) -> Tensor:
        return x if self.dropped else x + self.spike(x.transpose(0, 1)).transpose(0, 1)


def test_a_batch_that_leaves_out_all_spiking_layers_is_not_taken_for_a_dense_output():
    """As many steps as samples: nothing tells that an axis of the output is time."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), Often(), nn.Linear(6, 3))
    functional.set_step_mode(model, "m")
    wrap_with_shortcuts(model, ["1", "1.spike"])
    for model[1].dropped, samples in ((True, 2), (False, 3)):
        assert model(4 * torch.rand(samples, 2, 8)).shape == (samples, 2, 3)
    layouts = forwards_of(model).layouts
    assert (str(layouts["1"]), str(layouts["1.spike"])) == ("NTC", "TNC")


def test_time_that_was_seen_when_wrapping_holds_where_the_first_batch_does_not_show_it():
    """Where neurons of the user's own stay silent, their time step after step is not seen."""
    model = wrap_with_shortcuts(Net(), example_input=images())
    forwards = forwards_of(model)
    known = forwards.layouts["layer1.1"]
    silent = replace(known, batch=1, time=None, channel=0, sure=False)
    look = look_at(model, (images(),), {}, forwards.names)
    settle(replace(look, layouts={**look.layouts, "layer1.1": silent}), forwards)
    assert forwards.layouts["layer1.1"] == replace(known, sure=False)


def test_a_first_batch_that_leaves_out_every_head_has_the_plain_loss():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), Often(), nn.Linear(6, 3))
    functional.set_step_mode(model, "m")
    wrap_with_shortcuts(model, ["1.spike"])
    criterion, y = ShortcutLoss(model, nn.CrossEntropyLoss()), torch.tensor([0, 1, 2])
    for model[1].dropped, names in ((True, ["main"]), (False, ["main", "1.spike"])):
        output = model(4 * torch.rand(3, 2, 8)).mean(1)
        criterion(output, y).backward()
        functional.reset_net(model)
        assert list(criterion.parts) == ["total", *names]


class FoldedBlock(nn.Module):
    """Takes and gives rows ``n * T + t``, for a number of samples."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.spike = nn.Linear(8, 8), lif()

    def forward(self, rows: Tensor, samples: int) -> Tensor:
        steps = self.linear(rows).unflatten(0, (samples, -1)).transpose(0, 1)
        spikes: Tensor = self.spike(steps)
        return spikes.transpose(0, 1).flatten(0, 1)


class FoldedClips(nn.Module):
    """Classifies clips ``[N, T, 8]`` of any length."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FoldedBlock() for _ in range(4))
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        for block in self.blocks:
            rows = block(rows, len(x))
        logits: Tensor = self.fc(rows.unflatten(0, (len(x), -1)).mean(1))
        return logits


def test_folded_time_may_be_longer_in_another_batch():
    torch.manual_seed(0)
    model = wrap_with_shortcuts(FoldedClips(), at=["blocks.1"])
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    for samples, steps in ((N, 3), (N, 6), (N + 1, 4), (N, 3)):
        criterion(model(4 * torch.rand(samples, steps, 8)), torch.arange(samples)).backward()
        assert str(forwards_of(model).layouts["blocks.1"]) == f"(N{steps})C"
        assert {tuple(v.shape) for v in shortcut_logits(model).values()} == {(samples, CLASSES)}
        functional.reset_net(model)
