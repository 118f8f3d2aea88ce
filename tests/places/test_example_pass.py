"""One forward pass that is watched and leaves no trace."""

import copy
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from sj_shortcut.neurons import is_spiking_neuron
from sj_shortcut.places.example_pass import calibrate, run_pass, untouched
from tests.nets.small import N, Net, T, images
from tests.nets.zoo import lif


def watched(model: nn.Module, *args: Tensor, names: tuple[str, ...] = ()):
    with untouched(model):
        return run_pass(model, args, {}, is_spiking_neuron, names)


def test_modules_are_seen_in_the_order_in_which_they_finish():
    seen = watched(Net(), images())
    assert list(seen.sights)[:4] == ["layer1.0", "layer1.1", "layer1", "layer2.0"]
    assert seen.weights == ["layer1.0", "layer2.0", "layer3.0", "fc"]
    assert seen.output.shape == (T, N, 4) and seen.output.requires_grad
    sight = seen.sights["layer2.1"]
    assert (sight.weights_before, sight.after, sight.calls) == (2, ["layer2.0"], 1)
    assert (sight.shape, sight.kind) == ((T, N, 12), "Tensor")
    assert sight.args[0].shape == (T, N, 12) and not sight.args[0].requires_grad
    assert seen.sights["layer2"].weights_before == 1 and seen.sights["layer2"].args == ()


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.unused = nn.Sequential(nn.Linear(8, 3), lif()), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": torch.stack([self.cell(step) for step in x])}


def test_every_call_is_seen_and_what_is_not_called_is_not():
    seen = watched(Loop(), images())
    assert seen.sights["cell.1"].calls == T == len(seen.sights["cell.1"].outputs)
    assert seen.sights[""].kind == "dict" and seen.sights[""].shape == (T, N, 3)
    assert "unused" not in seen.sights and seen.weights == ["cell.0"]


def traces(model: nn.Module) -> dict[str, object]:
    found: dict[str, object] = {k: v.clone() for k, v in model.state_dict().items()}
    for name, module in model.named_modules():
        found[f"{name} training"] = module.training
        found[f"{name} hooks"] = list(module._forward_hooks), list(module._forward_pre_hooks)
        if isinstance(module, neuron.BaseNode):
            found[f"{name} v"] = module.v
    return found


def normed() -> nn.Module:
    model = nn.Sequential(layer.Linear(8, 6), layer.BatchNorm1d(6), lif(), layer.Linear(6, 3))
    model[1].eval()
    return model


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_it_is_left(fails):
    model, x, calls = normed(), images()[0], []
    model[2].register_forward_hook(lambda *args: calls.append(1))
    model(x)
    before, state = traces(model), torch.get_rng_state()
    with untouched(model):
        if fails:
            with pytest.raises(RuntimeError, match="shape"):
                run_pass(model, (x[:, :5],), {}, is_spiking_neuron)
        run_pass(model, (torch.rand(7, 8),), {}, is_spiking_neuron)  # of another batch size
        calibrate(model, (torch.rand(7, 8),), {})
    after = traces(model)
    assert calls == [1] and torch.equal(torch.get_rng_state(), state)
    assert before.keys() == after.keys()
    for key, value in before.items():
        same = torch.equal(value, after[key]) if isinstance(value, Tensor) else value == after[key]
        assert same, key
    assert all(parameter.grad is None for parameter in model.parameters())


def test_batch_norms_are_calibrated_on_one_batch():
    model, x = normed(), 5 + images()[0]
    with untouched(model):
        calibrate(model, (x,), {})
        torch.testing.assert_close(model[1].running_mean, model[0](x).mean(0))
        torch.testing.assert_close(model[1].running_var, model[0](x).var(0))
        assert not model[1].training and model[2].v == 0.0


def test_the_output_is_that_of_eval_mode():
    model, x = Net(), images()
    due = copy.deepcopy(model).eval()(x)
    assert torch.equal(watched(model, x).output, due)
    functional.reset_net(model)


def test_gradients_do_not_vanish_on_their_way():
    """Surrogates far from the threshold let nothing through in single precision."""
    model = nn.Sequential(layer.Linear(8, 6), *[lif() for _ in range(12)], layer.Linear(6, 3))
    with torch.no_grad():
        model[0].bias.fill_(-1e6)
    seen = watched(model, images()[0])
    (first,) = seen.sights["0"].outputs
    (grad,) = torch.autograd.grad(seen.output.sum(), first)
    assert grad.isfinite().all() and grad.any()


class Around(nn.Module):
    """Wraps a module and hands its attributes on, as those for checkpoints do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


def test_modules_go_by_the_names_that_are_asked_for():
    inner = nn.Sequential(layer.Linear(8, 4), lif())
    model = nn.Sequential(inner, inner[1])
    assert list(watched(model, images()[0]).sights) == ["0.0", "0.1", "0", ""]
    around = nn.Sequential(Around(inner))
    assert "0.1" not in watched(around, images()[0]).sights
    assert "0.1" in watched(around, images()[0], names=("0.1",)).sights
