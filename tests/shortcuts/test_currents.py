"""Heads that read the currents into spiking layers rather than their spikes."""

import copy

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import sew_resnet, spiking_resnet
from torch import Tensor, nn

from sj_shortcut import (
    ConstantSchedule,
    ShortcutLoss,
    remove_shortcuts,
    shortcut_branches,
    shortcut_logits,
    wrap_with_shortcuts,
)
from tests.nets.small import skip_unless_neurons_compile

T, N, K = 3, 4, 5


def lif() -> nn.Module:
    return neuron.LIFNode(v_threshold=0.3, surrogate_function=surrogate.ATan())


def net(mode: str = "m") -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        layer.Conv2d(2, 6, 3, padding=1, bias=False), layer.BatchNorm2d(6), lif(),
        layer.Conv2d(6, 6, 3, padding=1, bias=False), layer.BatchNorm2d(6), lif(),
        layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(6, K),
    )  # fmt: skip
    functional.set_step_mode(model, mode)
    return model


def batch() -> tuple[Tensor, Tensor]:
    x = 2 * torch.rand(T, N, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(N) % K


@pytest.mark.parametrize("mode", ["m", "s"])
@pytest.mark.parametrize("grid", [1, 2])
def test_logits_and_gradients_are_those_of_the_currents_by_hand(mode, grid):
    model = wrap_with_shortcuts(net(mode), ["2"], grid=grid, reads="currents")
    twin = copy.deepcopy(remove_shortcuts(copy.deepcopy(model)))
    linear = shortcut_branches(model)["2"].head.linear
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(0.7))
    x, y = batch()
    seen: list[Tensor] = []
    twin[1].register_forward_hook(lambda module, args, output: seen.append(output))

    def run(network: nn.Module) -> Tensor:
        return network(x) if mode == "m" else torch.stack([network(step) for step in x])

    criterion(run(model).mean(0), y).backward()
    output = run(twin)
    currents = seen[0] if mode == "m" else torch.stack(seen)
    parts = nn.functional.adaptive_avg_pool2d(currents.mean(0), grid).flatten(1)
    logits = parts @ linear.weight.T + linear.bias
    torch.testing.assert_close(shortcut_logits(model)["2"], logits)
    loss = nn.functional.cross_entropy(output.mean(0), y)
    loss = loss + 0.7 * nn.functional.cross_entropy(logits, y)
    due = torch.autograd.grad(loss, list(twin.parameters()))
    names = [name for name, _ in twin.named_parameters()]
    found = dict(model.named_parameters())
    torch.testing.assert_close([found[n].grad for n in names], list(due), rtol=1e-4, atol=1e-6)


def test_a_silent_layer_does_not_keep_a_head_of_currents_from_learning():
    spikes, currents = (
        wrap_with_shortcuts(net(), ["2"], reads=reads) for reads in ("spikes", "currents")
    )
    for model in (spikes, currents):
        model[2].v_threshold = 1e3
        criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(1.0))
        criterion(model(batch()[0]).mean(0), batch()[1]).backward()
    norms = [model[0].weight.grad.norm() for model in (spikes, currents)]
    assert norms[1] > 1e-3 > norms[0]


@pytest.mark.parametrize("build", [spiking_resnet.spiking_resnet18, sew_resnet.sew_resnet18])
def test_heads_of_blocks_go_by_their_last_neuron(build):
    options = {"cnf": "ADD"} if build is sew_resnet.sew_resnet18 else {}
    model = build(spiking_neuron=neuron.LIFNode, num_classes=K, **options)
    functional.set_step_mode(model, "m")
    bare = copy.deepcopy(model)
    blocks = list(shortcut_branches(wrap_with_shortcuts(copy.deepcopy(model))))
    wrap_with_shortcuts(model, reads="currents")
    assert list(shortcut_branches(model)) == [
        name if name == "sn1" else f"{name}.sn2" for name in blocks
    ]
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    criterion(model(torch.rand(2, 2, 3, 32, 32)).mean(0), torch.tensor([0, 1])).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert remove_shortcuts(model).state_dict().keys() == bare.state_dict().keys()


class ByName(nn.Module):
    """Calls its neuron with the current as a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.spike, self.out = nn.Linear(4, 6), lif(), nn.Linear(6, K)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.spike(x=self.fc(x)))


def test_what_has_no_current_is_told():
    with pytest.raises(ValueError, match='reads must be "spikes" or "currents", got 1'):
        wrap_with_shortcuts(net(), reads=1)
    model = wrap_with_shortcuts(ByName(), ["spike"], reads="currents")
    with pytest.raises(TypeError, match="input of 'spike', as it is called in forward, is a tuple"):
        model(torch.rand(N, 4))


@pytest.mark.parametrize("mode", ["m", "s"])
def test_compiled_they_give_the_same(mode):
    skip_unless_neurons_compile()
    found = []
    for compiled in (False, True):
        model = wrap_with_shortcuts(net(mode), ["2"], reads="currents")
        criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
        call = torch.compile(model, backend="aot_eager") if compiled else model
        x, y = batch()
        output = call(x) if mode == "m" else torch.stack([call(step) for step in x])
        criterion(output.mean(0), y).backward()
        found.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


class Backwards(nn.Module):
    """A block whose neurons are defined the other way round than they run."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.second = lif(), nn.Linear(6, 6)
        self.first, self.one = lif(), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.second(self.first(self.one(x))))


def test_the_last_spiking_layer_of_a_block_is_the_one_that_runs_last():
    layers = nn.Linear(4, 6), lif(), Backwards(), Backwards(), nn.Linear(6, K)
    model = wrap_with_shortcuts(nn.Sequential(*layers), ["2"], reads="currents")
    assert list(shortcut_branches(model)) == ["2.last"]


class StateFirst(nn.Module):
    """Neurons that take their state, which may be none at first, before their current."""

    def forward(self, state: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
        v = x if state is None else state / 2 + x
        spike = surrogate.ATan()(v - 0.3)
        return spike, v * (1 - spike)


class ByHand(nn.Module):
    """Hands the state on from step to step."""

    def __init__(self, zeros: bool) -> None:
        super().__init__()
        self.zeros = zeros
        self.fc, self.a = nn.Linear(4, 6), StateFirst()
        self.fc2, self.b, self.out = nn.Linear(6, 6), StateFirst(), nn.Linear(6, K)

    def forward(self, x: Tensor) -> Tensor:
        u = v = torch.zeros(N, 6) if self.zeros else None
        out = []
        for step in x:
            spike, u = self.a(u, self.fc(step))
            spike, v = self.b(v, self.fc2(spike))
            out.append(self.out(spike))
        return torch.stack(out).mean(0)


@pytest.mark.parametrize("zeros", [False, True])
def test_a_state_that_is_handed_over_first_is_not_taken_for_the_current(zeros):
    torch.manual_seed(0)
    model = wrap_with_shortcuts(
        ByHand(zeros), ["a"], neuron_types=(StateFirst,), reads="currents", layout="NC..."
    )
    x = torch.rand(T, N, 4)
    model(x)
    linear = shortcut_branches(model)["a"].head.linear
    torch.testing.assert_close(shortcut_logits(model)["a"], linear(model.fc(x).mean(0)))


class Repeats(nn.Module):
    """Neurons that see one current at all steps."""

    def forward(self, x: Tensor) -> Tensor:
        return surrogate.ATan()(torch.stack([x * step for step in range(1, T + 1)]) - 0.3)


class Weighs(nn.Module):
    """A layer with its neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return surrogate.ATan()(self.fc(x) - 0.3)


class Mean(nn.Module):
    """Over time."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(0)


def test_a_layer_whose_input_is_no_current_of_its_own_shape_is_told():
    layers = nn.Linear(4, 6), Weighs(), Weighs(), nn.Linear(6, K)
    options = {"neuron_types": (Repeats, Weighs), "reads": "currents"}
    with pytest.raises(ValueError, match="'1'.*, as it holds weights of its own: name"):
        wrap_with_shortcuts(nn.Sequential(*layers), ["1"], **options)
    layers = nn.Linear(4, 6), Repeats(), nn.Linear(6, 6), lif(), nn.Linear(6, K), Mean()
    model = nn.Sequential(*layers)
    functional.set_step_mode(model, "m")
    x = torch.rand(N, 4)
    wrap_with_shortcuts(model, ["1"], layout={"1": "TNC"}, **options)
    with pytest.raises(ValueError, match=r"'1' is given \(4, 6\) and gives \(3, 4, 6\)"):
        model(x)
