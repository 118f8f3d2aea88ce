import math
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from sj_shortcut import GradientRecorder
from sj_shortcut.gradients.tracer import Tracer
from sj_shortcut.gradients.weights import measure_weights
from tests.gradients.tools import record
from tests.nets.small import Net, images
from tests.nets.zoo import EVERY, ZOO
from tests.ranks import on_ranks


@pytest.mark.parametrize(("name", "mode"), EVERY)
def test_weight_norms_equal_an_independent_computation(name: str, mode: str) -> None:
    specimen = ZOO[name]
    model, x = specimen.make(mode).train(), specimen.sequence()
    with GradientRecorder(model) as recorder:
        logits = specimen.logits(model, x, mode)
        loss = nn.functional.cross_entropy(logits, specimen.target())
        loss.backward(retain_graph=True)
        recorder.step()
    frame = recorder.frame.set_index("layer")
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    }
    assert set(frame.index) == set(layers)
    weights = [module.weight for module in layers.values()]
    for name, grad in zip(layers, torch.autograd.grad(loss, weights), strict=True):
        want = grad.double()
        row = frame.loc[name]
        assert row.weight_grad_norm == pytest.approx(want.norm().item(), rel=1e-6)
        assert row.weight_grad_rms == pytest.approx(want.square().mean().sqrt().item(), rel=1e-6)
        assert row.zero_fraction == pytest.approx((want == 0).double().mean().item())
        assert row.weight_norm == pytest.approx(layers[name].weight.double().norm().item())
        assert row.grad_to_weight == pytest.approx(row.weight_grad_norm / row.weight_norm)
        assert row.module == type(layers[name]).__name__
    assert sorted(frame.depth) == list(range(1, len(frame) + 1))
    feeding = frame[frame.neuron != ""]
    assert len(feeding) >= len(frame) - 2
    assert feeding[["output_grad_norm", "alive", "firing_rate"]].notna().all(axis=None)


def test_weight_norm_and_other_parametrizations() -> None:
    model = Net()
    nn.utils.parametrizations.weight_norm(model.layer1[0])
    frame = record(model)
    weights = model.layer1[0].parametrizations.weight
    want = math.hypot(weights.original0.grad.norm(), weights.original1.grad.norm())
    assert frame.weight_grad_norm["layer1.0"] == pytest.approx(want)
    assert frame.weights["layer1.0"] == 16 + 128


def test_none_zero_frozen_unused_and_nan_are_told_apart() -> None:
    class Odd(Net):
        def __init__(self) -> None:
            super().__init__()
            self.unused = layer.Linear(8, 8)
            self.cut = layer.Linear(8, 16, step_mode="m")

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer1(x) + self.cut(x).detach()
            return self.fc(self.layer3(self.layer2(x)) * 0)

    model = Odd()
    model.layer1.requires_grad_(False)
    with GradientRecorder(model) as recorder:
        model(images()).sum().backward()
        model.fc.weight.grad.fill_(math.nan)[0, 0] = 0
        recorder.step()
    frame = recorder.frame.set_index("layer")
    assert frame.status.to_dict() == {
        "layer1.0": "frozen",
        "cut": "none",
        "layer2.0": "zero",
        "layer3.0": "zero",
        "fc": "nonfinite",
        "unused": "none",
    }
    assert frame.weight_grad_norm.isna().to_dict() == {
        "layer1.0": True,
        "cut": True,
        "layer2.0": False,
        "layer3.0": False,
        "fc": True,
        "unused": True,
    }
    assert frame.zero_fraction.isna()[["layer1.0", "cut", "unused"]].all()
    assert frame.zero_fraction["layer2.0"] == 1
    assert frame.zero_fraction["fc"] == pytest.approx(1 / 24)
    assert math.isnan(frame.depth["unused"]) and frame.index[-1] == "unused"
    assert frame.firing_rate["layer1.0"] > 0  # measured though no gradient comes by
    assert math.isnan(frame.output_grad_norm["layer1.0"])


def test_a_vanishing_gradient_does_not_underflow() -> None:
    model = Net()
    with GradientRecorder(model) as recorder:
        (model(images()).sum() * 1e-30).backward()
        recorder.step()
    frame = recorder.frame.set_index("layer")
    assert (frame.status == "ok").all()
    for name in ("layer1", "layer2", "layer3"):
        want = getattr(model, name)[0].weight.grad.double().norm().item()
        assert 0 < want < 1e-25
        assert frame.weight_grad_norm[f"{name}.0"] == pytest.approx(want, rel=1e-6)
    assert frame.output_grad_norm["layer1.0"] > 0


def record_shards(rank: int) -> str:
    mesh = init_device_mesh("cpu", (2,))
    model = Net()
    sharded = distribute_tensor(model.layer1[0].weight, mesh, [Shard(0)])
    model.layer1[0].weight = nn.Parameter(sharded)
    (layer1,) = (one for one in Tracer(model).layers if one.name == "layer1.0")
    try:
        measure_weights(layer1, [None])
    except TypeError as error:
        return str(error)
    return ""


def test_sharded_weights(tmp_path: Path) -> None:
    told = (
        "the weight of 'layer1.0' is a DTensor, of which each process holds a part: gradients of "
        "sharded parameters (FSDP, tensor parallelism) cannot be measured here. Measure before "
        "sharding, or under DistributedDataParallel; ShortcutLogger does without them with "
        "layers=False."
    )
    assert on_ranks(record_shards, tmp_path) == [told, told]
