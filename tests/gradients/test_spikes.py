import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from sj_shortcut import GradientRecorder
from tests.gradients.tools import SlowSigmoid, linear_net, record
from tests.nets.small import labels
from tests.nets.zoo import ZOO
from tests.refusals import refused


class HandSpike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x >= 0).to(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * bell(ctx.saved_tensors[0])


def bell(x: Tensor) -> Tensor:
    s = torch.sigmoid(4 * x)
    return 4 * s * (1 - s)


def unrolled(weights: list[Tensor], x: Tensor, tau: float, threshold: float) -> list[list[dict]]:
    """Gradient norm, alive share and firing rate of each spiking layer and time step."""
    voltages = [torch.zeros(1)] * (len(weights) - 1)
    steps, outputs = [], []
    for x_t in x:
        seen = []
        for i, weight in enumerate(weights[:-1]):
            charged = voltages[i] + (x_t @ weight.T - voltages[i]) / tau
            x_t = HandSpike.apply(charged - threshold)
            x_t.retain_grad()
            voltages[i] = (1 - x_t.detach()) * charged
            seen.append((charged.detach() - threshold, x_t))
        steps.append(seen)
        outputs.append(x_t @ weights[-1].T)
    nn.functional.cross_entropy(torch.stack(outputs).mean(0), labels(x.shape[1])).backward()
    return [
        [
            {
                "output_grad_norm": spikes.grad.double().norm().item(),
                "alive": (bell(charged) > 0.3).double().mean().item(),
                "firing_rate": spikes.detach().mean().item(),
            }
            for charged, spikes in seen
        ]
        for seen in steps
    ]


@pytest.mark.parametrize("mode", "ms")
@pytest.mark.parametrize("function", [surrogate.Sigmoid(), SlowSigmoid()], ids=["known", "own"])
@pytest.mark.parametrize("batch", [3, 5])  # 5 is T: axes must not be mixed up
def test_each_time_step_equals_a_hand_unrolled_loop(
    mode: str, function: nn.Module, batch: int
) -> None:
    model = linear_net(function, mode)
    torch.manual_seed(1)
    x = 3 * torch.rand(5, batch, 8)
    weights = [model[i].weight.detach().clone().requires_grad_() for i in (0, 2, 4)]
    want = unrolled(weights, x, tau=2.0, threshold=0.3)
    with GradientRecorder(model, per_step=True, alive_threshold=0.3) as recorder:
        out = model(x) if mode == "m" else torch.stack([model(x_t) for x_t in x])
        nn.functional.cross_entropy(out.mean(0), labels(batch)).backward()
        recorder.step()
    frame = recorder.frame
    for i, name in enumerate(("0", "2")):
        rows = frame[frame.layer == name]
        assert list(rows.t) == [0, 1, 2, 3, 4]
        assert (rows.neuron == str(2 * i + 1)).all()
        for t, row in enumerate(rows.to_dict("records")):
            for column, value in want[t][i].items():
                assert row[column] == pytest.approx(value, rel=1e-6), (name, t, column)
            assert row["weight_grad_norm"] == pytest.approx(weights[i].grad.norm().item())
    assert frame.output_grad_norm.nunique() > 5


@pytest.mark.parametrize("mode", "ms")
def test_some_quantities_alone(mode: str) -> None:
    specimen = ZOO["conv_net"]
    model, x, frames = specimen.make(mode), specimen.sequence(), {}
    names = ("output_grad_norm", "alive", "firing_rate")
    for activity in (True, *names, names[1:]):
        with GradientRecorder(model, activity=activity) as recorder:
            specimen.logits(model, x, mode).sum().backward()
            recorder.step()
        functional.reset_net(model)
        model.zero_grad()
        frames[activity] = recorder.frame
    for activity in (*names, names[1:]):
        measured = [activity] if isinstance(activity, str) else list(activity)
        left = [name for name in names if name not in measured]
        assert frames[activity].drop(columns=left).equals(frames[True].drop(columns=left))
        assert frames[activity][left].isna().all(axis=None)
    with refused(
        ValueError,
        "activity names 'rate', which is none of 'output_grad_norm', 'alive', 'firing_rate': name "
        "some of these, or say True for all and False for none.",
    ):
        GradientRecorder(model, activity=["rate"])


@pytest.mark.skipif(not hasattr(neuron, "ILIFNode"), reason="SpikingJelly 2.0.0 only")
def test_neuron_that_counts_spikes() -> None:
    spiking = neuron.ILIFNode(step_mode="m")
    model = nn.Sequential(layer.Linear(8, 16), spiking, layer.Linear(16, 4))
    functional.set_step_mode(model, "m")
    frame = record(model)
    assert 0 < frame.alive["0"] <= 1
    assert 0 < frame.firing_rate["0"] <= 1
