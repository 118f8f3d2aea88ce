import math

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from sj_shortcut import GradientRecorder
from tests.gradients.tools import linear_net
from tests.nets.small import Net, images, labels


@pytest.mark.parametrize("mode", "ms")
def test_time_steps_together_sum_up_what_they_are_apart(mode: str) -> None:
    model, x = linear_net(surrogate.Sigmoid(), mode), 3 * torch.rand(5, 3, 8)
    frames = {}
    for per_step in (True, False):
        with GradientRecorder(model, per_step=per_step) as recorder:
            out = model(x) if mode == "m" else torch.stack([model(x_t) for x_t in x])
            nn.functional.cross_entropy(out.mean(0), labels()).backward()
            recorder.step()
        functional.reset_net(model)
        model.zero_grad()
        frames[per_step] = recorder.frame
    apart = frames[True][frames[True].layer == "2"]
    together = frames[False].set_index("layer").loc["2"]
    assert "t" not in frames[False]
    assert together.alive == pytest.approx(apart.alive.mean())
    assert together.firing_rate == pytest.approx(apart.firing_rate.mean())
    assert together.output_grad_norm == pytest.approx(math.hypot(*apart.output_grad_norm))


def test_inside_a_container_that_loops_over_time() -> None:
    def net(mode: str) -> nn.Module:
        torch.manual_seed(0)
        part = [nn.Linear(8, 16), neuron.LIFNode(v_threshold=0.3, detach_reset=True)]
        rest = [layer.SeqToANNContainer(nn.Linear(16, 4))]
        if mode == "s":
            return nn.Sequential(layer.MultiStepContainer(*part), *rest)
        part[1].step_mode = "m"
        return nn.Sequential(layer.SeqToANNContainer(part[0]), part[1], *rest)

    x, frames = 3 * torch.rand(5, 3, 8), {}
    for mode in "ms":
        with GradientRecorder(model := net(mode), per_step=True) as recorder:
            nn.functional.cross_entropy(model(x).mean(0), labels()).backward()
            recorder.step()
        frames[mode] = recorder.frame.iloc[:5]
    for column in ("t", "alive", "firing_rate", "output_grad_norm"):
        assert frames["m"][column].tolist() == pytest.approx(frames["s"][column].tolist())
    assert frames["s"].neuron.tolist() == ["0.1"] * 5


def test_accumulated_gradients() -> None:
    model = Net()
    batches = [images() for _ in range(3)]
    with GradientRecorder(model, per_step=True) as recorder:
        for x in batches:
            model(x).sum().backward()
            functional.reset_net(model)
        recorder.step()
    together = recorder.frame
    norms, rates = [], []
    for x in batches:
        with GradientRecorder(model, per_step=True) as recorder:
            model(x).sum().backward()
            functional.reset_net(model)
            recorder.step()
        norms.append(recorder.frame.output_grad_norm)
        rates.append(recorder.frame.firing_rate)
    model.zero_grad()
    for x in batches:
        model(x).sum().backward()
        functional.reset_net(model)
    row = together[(together.layer == "layer2.0") & (together.t == 1)].iloc[0]
    assert row.weight_grad_norm == pytest.approx(model.layer2[0].weight.grad.norm().item())
    i = row.name
    assert row.output_grad_norm == pytest.approx(math.hypot(*(norm[i] for norm in norms)))
    assert row.firing_rate == pytest.approx(sum(rate[i] for rate in rates) / 3)


@pytest.mark.parametrize("mode", "ms")
def test_validation_in_between_does_not_count(mode: str) -> None:
    torch.manual_seed(0)
    model, x, loud = Net(mode), images(), 100 * images()

    def run(x: Tensor) -> Tensor:
        out = model(x) if mode == "m" else torch.stack([model(x_t) for x_t in x])
        functional.reset_net(model)
        return out

    frames = []
    for validate in (False, True):
        with GradientRecorder(model, per_step=True) as recorder:
            if validate:
                with torch.no_grad():
                    run(loud)
                run(loud)  # with gradients, by mistake
            run(x).sum().backward()
            if validate:
                run(loud)
            recorder.step()
        frames.append(recorder.frame)
        model.zero_grad()
    assert frames[0].equals(frames[1])
