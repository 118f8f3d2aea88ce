import copy
import gc
import math
import pickle
import warnings
import weakref
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from sj_shortcut import (
    GradientRecorder,
    ShortcutLoss,
    every_steps,
    log_spaced_steps,
    wrap_with_shortcuts,
)
from tests.nets.small import Net, images, labels
from tests.nets.zoo import EVERY, ZOO
from tests.ranks import on_ranks

CONTRACT = [
    "layer", "depth", "module", "weight_grad_norm", "weight_grad_rms", "weight_norm",
    "grad_to_weight", "zero_fraction", "output_grad_norm", "alive", "firing_rate",
]  # fmt: skip


def hooks_on(model: nn.Module) -> int:
    return sum(
        len(table)
        for module in model.modules()
        for name, table in vars(module).items()
        if "hooks" in name and isinstance(table, dict)
    )


def train_step(model: nn.Module, recorder: GradientRecorder | None = None, **tags: object) -> None:
    loss = nn.functional.cross_entropy(model(images()).mean(0), labels())
    model.zero_grad()
    loss.backward()
    if recorder is not None:
        recorder.step(**tags)
    functional.reset_net(model)


def record(model: nn.Module, **options: object) -> pd.DataFrame:
    with GradientRecorder(model, **options) as recorder:
        train_step(model, recorder)
    return recorder.frame.set_index("layer")


class SlowSigmoid(nn.Module):
    """A surrogate function that no fused kernel knows."""

    def forward(self, x: Tensor) -> Tensor:
        smooth = torch.sigmoid(4 * x)
        return (x >= 0).to(x) + smooth - smooth.detach()


# Independent of hooks: torch.autograd.grad.


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


# Against a loop written out by hand.


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


def linear_net(surrogate_function: nn.Module, mode: str) -> nn.Sequential:
    torch.manual_seed(0)
    lif = {"surrogate_function": surrogate_function, "detach_reset": True, "v_threshold": 0.3}
    model = nn.Sequential(
        layer.Linear(8, 16, bias=False),
        neuron.LIFNode(**lif),
        layer.Linear(16, 12, bias=False),
        neuron.LIFNode(**lif),
        layer.Linear(12, 4, bias=False),
    )
    functional.set_step_mode(model, mode)
    return model


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


@pytest.mark.parametrize("mode", "ms")
@pytest.mark.parametrize(
    "kind", ["IFNode", "LIFNode", "ParametricLIFNode", "QIFNode", "EIFNode", "IzhikevichNode"]
)
def test_fused_neurons_show_the_same_potentials_as_others(kind: str, mode: str) -> None:
    frames = []
    for function in (surrogate.Sigmoid(), SlowSigmoid()):
        torch.manual_seed(0)
        spiking = getattr(neuron, kind)(surrogate_function=function)
        model = nn.Sequential(layer.Linear(8, 16), spiking, layer.Linear(16, 4))
        functional.set_step_mode(model, mode)
        x = 3 * torch.rand(4, 3, 8)
        with GradientRecorder(model, per_step=True) as recorder:
            out = model(x) if mode == "m" else torch.stack([model(x_t) for x_t in x])
            out.sum().backward()
            recorder.step()
        frames.append(recorder.frame[recorder.frame.layer == "0"])
    assert frames[0].alive.tolist() == pytest.approx(frames[1].alive.tolist())
    assert frames[0].alive.between(0, 1).all()


@pytest.mark.skipif(not hasattr(neuron, "ILIFNode"), reason="SpikingJelly 2.0.0 only")
def test_neuron_that_counts_spikes() -> None:
    spiking = neuron.ILIFNode(step_mode="m")
    model = nn.Sequential(layer.Linear(8, 16), spiking, layer.Linear(16, 4))
    functional.set_step_mode(model, "m")
    frame = record(model)
    assert 0 < frame.alive["0"] <= 1
    assert 0 < frame.firing_rate["0"] <= 1


# What it leaves alone.


@pytest.mark.parametrize("mode", "ms")
@pytest.mark.parametrize("options", [{}, {"per_step": True}, {"activity": False}])
def test_recording_changes_nothing(mode: str, options: dict[str, bool]) -> None:
    specimen = ZOO["own_shortcut"]

    def train(recorded: bool) -> dict[str, Tensor]:
        model = specimen.make(mode)
        model.insert(2, layer.Dropout(0.3, step_mode=mode))
        wrap_with_shortcuts(model)
        criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        recorder = GradientRecorder(model, **options)
        if recorded:
            recorder.__enter__()
        torch.manual_seed(3)
        for _ in range(20):
            x = 2 * torch.rand(2, 2, *specimen.shape)
            loss = criterion(specimen.logits(model, x, mode), specimen.target())
            optimizer.zero_grad()
            loss.backward()
            if recorded:
                assert recorder.step()
            optimizer.step()
            functional.reset_net(model)
        recorder.__exit__()
        return {**model.state_dict(), "loss": loss}

    plain, recorded = train(False), train(True)
    assert all(torch.equal(plain[name], recorded[name]) for name in plain)


def test_nothing_stays_behind() -> None:
    model = Net()
    before = hooks_on(model), {name: set(vars(m)) for name, m in model.named_modules()}
    outputs = []
    handle = model.layer1[1].register_forward_hook(lambda m, i, o: outputs.append(weakref.ref(o)))
    recorder = GradientRecorder(model)
    with recorder:
        assert hooks_on(model) > before[0] + 1
        train_step(model, recorder)
    handle.remove()
    assert (hooks_on(model), {name: set(vars(m)) for name, m in model.named_modules()}) == before
    assert not recorder._tracer.calls
    gc.collect()
    assert outputs[0]() is None
    reference = weakref.ref(recorder._tracer)
    del recorder
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("where", ["forward", "neuron", "inside", "backward", "loop"])
def test_nothing_stays_behind_after_an_exception(where: str) -> None:
    model = Net()
    clean = hooks_on(model)

    def fail(*args: object) -> None:
        raise KeyError("mine")

    recorder = GradientRecorder(model)
    with pytest.raises(KeyError, match="mine"), recorder:
        if where == "forward":
            model.fc.register_forward_hook(fail)
        if where == "neuron":
            model.layer2[1].register_forward_hook(fail)
        if where == "inside":
            model.layer2[1].surrogate_function = SlowSigmoid()  # as no fused kernel knows it
            model.layer2[1].surrogate_function.register_forward_pre_hook(fail)
        out = model(images())
        if where == "backward":
            out.register_hook(fail)
        out.sum().backward()
        fail()
    left = {"forward": 1, "neuron": 1, "inside": 1}.get(where, 0)  # the test's own
    assert hooks_on(model) == clean + left
    assert len(torch.overrides._get_current_function_mode_stack()) == 0


def test_steps_that_are_not_measured_have_no_hooks() -> None:
    model = Net()
    with GradientRecorder(model, when=every_steps(3, start=1)) as recorder:
        seen = []
        for _ in range(8):
            seen.append((recorder.measures_next, hooks_on(model) > 0))
            train_step(model, recorder, run="a")
    assert seen == [(step in (1, 4, 7),) * 2 for step in range(8)]
    assert recorder.frame.step.unique().tolist() == [1, 4, 7]


def test_weights_alone_need_hooks_once_only() -> None:
    model = Net()
    with GradientRecorder(model, activity=False) as recorder:
        train_step(model, recorder)
        assert hooks_on(model) == 0
        train_step(model, recorder)
    assert recorder.frame.step.unique().tolist() == [0, 1]
    assert recorder.frame[["output_grad_norm", "alive", "firing_rate"]].isna().all(axis=None)


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
    with pytest.raises(ValueError, match="activity names 'rate', which is none of 'output_grad"):
        GradientRecorder(model, activity=["rate"])


def test_a_copy_made_meanwhile_watches_nothing() -> None:
    model = Net()
    with GradientRecorder(model) as recorder:
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            train_step(twin)
        assert not recorder._tracer.calls and not recorder._tracer.order
        train_step(model, recorder)
    assert len(recorder.frame) == 4


# The frame.


def test_columns_and_tags() -> None:
    model = Net()
    with GradientRecorder(model) as recorder:
        train_step(model, recorder, run="a", epoch=0)
        train_step(model, recorder, run="a", epoch=1, note="late")
    frame = recorder.frame
    assert frame.columns.tolist()[:4] == ["run", "epoch", "note", "step"]
    assert set(CONTRACT) <= set(frame.columns)
    assert frame.epoch.tolist() == [0] * 4 + [1] * 4
    assert frame.depth.tolist() == [1, 2, 3, 4] * 2
    assert frame.depth.dtype.kind == "i"
    assert frame.note.isna().sum() == 4
    assert list(frame.index) == list(range(8))


def test_frame_without_rows_has_the_columns() -> None:
    frame = GradientRecorder(Net()).frame
    assert frame.empty and set(CONTRACT) <= set(frame.columns)


def test_depth_is_the_order_of_execution() -> None:
    class Backwards(Net):
        def __init__(self) -> None:
            super().__init__()
            self.layer1, self.layer3 = self.layer3, self.layer1

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.layer1(self.layer2(self.layer3(x))))

    frame = record(Backwards())
    assert frame.index.tolist() == ["layer3.0", "layer2.0", "layer1.0", "fc"]
    assert frame.neuron.tolist() == ["layer3.1", "layer2.1", "layer1.1", ""]


def test_heads_are_not_layers_of_the_network() -> None:
    model = wrap_with_shortcuts(Net())
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    with GradientRecorder(model) as recorder:
        criterion(model(images()).mean(0), labels()).backward()
        recorder.step()
    assert recorder.frame.layer.tolist() == ["layer1.0", "layer2.0", "layer3.0", "fc"]
    assert recorder.frame.neuron.tolist() == ["layer1.1", "layer2.1", "layer3.1", ""]


def test_when() -> None:
    assert [s for s in range(12) if every_steps(5)(s)] == [0, 5, 10]
    due = [step for step in range(10_001) if log_spaced_steps(10)(step)]
    assert due[:4] == [0, 1, 2, 3] and {10, 100, 1000, 10_000} <= set(due)
    assert sum(100 <= step < 1000 for step in due) == 10
    model = Net()
    with GradientRecorder(model, when=lambda step: step == 2) as recorder:
        for _ in range(4):
            train_step(model, recorder)
    assert recorder.frame.step.unique().tolist() == [2]


# Traps.


def test_in_place_modules() -> None:
    class Plain(Net):
        inplace = False

        def forward(self, x: Tensor) -> Tensor:
            spikes = nn.functional.relu(1.0 * self.layer1(x), inplace=self.inplace)
            spikes = self.layer2(spikes)
            if self.inplace:
                spikes *= 2
            else:
                spikes = spikes * 2
            return self.fc(self.layer3(spikes))

    class InPlace(Plain):
        inplace = True

    frames = []
    for kind in (Plain, InPlace):
        torch.manual_seed(0)
        frames.append(record(kind()))
    assert (frames[0].drop(columns="module") == frames[1].drop(columns="module")).sum(
        axis=None
    ) == frames[0].drop(columns="module").notna().sum(axis=None)


def test_shared_modules() -> None:
    class Shared(nn.Module):
        """One weight and one neuron, called three times."""

        def __init__(self) -> None:
            super().__init__()
            self.inlet = layer.Linear(8, 6, step_mode="m")
            self.body = layer.Linear(6, 6, step_mode="m")
            self.spikes = neuron.IFNode(v_threshold=0.1, step_mode="m")
            self.again = self.body

        def forward(self, x: Tensor) -> Tensor:
            x = self.spikes(self.inlet(x))
            for _ in range(2):
                self.spikes.reset()
                x = self.spikes(self.again(x))
                x.retain_grad()
                self.kept = [*getattr(self, "kept", []), x]
            return x

    torch.manual_seed(0)
    model = Shared()
    with GradientRecorder(model) as recorder:
        model(images()).sum().backward()
        recorder.step()
    frame = recorder.frame.set_index("layer")
    assert frame.index.tolist() == ["inlet", "body"]
    assert frame.neuron.tolist() == ["spikes", "spikes"]
    norms = [x.grad.norm().item() for x in model.kept]
    assert frame.output_grad_norm["body"] == pytest.approx(math.hypot(*norms))
    rates = [x.detach().mean().item() for x in model.kept]
    assert frame.firing_rate["body"] == pytest.approx(sum(rates) / 2)


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


def test_scale_under_mixed_precision() -> None:
    torch.manual_seed(0)
    model, x = Net(), images()
    frames = []
    for scale in (1.0, 1024.0):
        with GradientRecorder(model, scale=lambda scale=scale: scale) as recorder:
            (model(x).sum() * scale).backward()
            recorder.step()
        functional.reset_net(model)
        model.zero_grad()
        frames.append(recorder.frame.select_dtypes("number"))
    assert (frames[0] - frames[1]).abs().max(axis=None) == 0


def test_autocast() -> None:
    model = Net()
    with GradientRecorder(model, per_step=True) as recorder:
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images()).mean(0), labels())
        loss.backward()
        recorder.step()
    assert recorder.frame[["weight_grad_norm", "weight_norm"]].notna().all(axis=None)
    assert recorder.frame.dropna().alive.between(0, 1).all()


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


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant: bool) -> None:
    class Saving(Net):
        checkpoints = False

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer1(x)
            if self.checkpoints:
                x = checkpoint(self._middle, x, use_reentrant=reentrant)
            else:
                x = self._middle(x)
            return self.fc(self.layer3(x))

        def _middle(self, x: Tensor) -> Tensor:
            self.layer2[1].reset()
            return self.layer2(x)

    torch.manual_seed(0)
    model, x = Saving(), images()
    frames = []
    for model.checkpoints in (False, True):
        # Stopping early inside TorchScript, which 0.0.0.0.14 uses, fails in PyTorch itself.
        with GradientRecorder(model) as recorder, set_checkpoint_early_stop(False):
            model(x).sum().backward()
            recorder.step()
        functional.reset_net(model)
        model.zero_grad()
        frames.append(recorder.frame.set_index("layer").select_dtypes("number"))
    assert frames[0].equals(frames[1])


def test_two_backward_passes_through_one_forward() -> None:
    model = Net()
    with GradientRecorder(model) as recorder:
        out = model(images())
        out[0].sum().backward(retain_graph=True)
        out[1].sum().backward()
        with pytest.warns(UserWarning, match=r"'layer1\.1'.*Add the losses up"):
            recorder.step()
    frame = recorder.frame.set_index("layer")
    assert frame.output_grad_norm.isna().all()
    assert frame.weight_grad_norm["fc"] == pytest.approx(model.fc.weight.grad.norm().item())


def test_weight_norm_and_other_parametrizations() -> None:
    model = Net()
    nn.utils.parametrizations.weight_norm(model.layer1[0])
    frame = record(model)
    weights = model.layer1[0].parametrizations.weight
    want = math.hypot(weights.original0.grad.norm(), weights.original1.grad.norm())
    assert frame.weight_grad_norm["layer1.0"] == pytest.approx(want)
    assert frame.weights["layer1.0"] == 16 + 128


def test_own_neuron_types() -> None:
    class Step(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return surrogate.ATan()(x - 0.1)

    model = Net()
    model.layer2[1] = Step()
    assert record(model).neuron["layer2.0"] == "layer3.1"
    frame = record(model, neuron_types=(Step,))
    assert frame.neuron["layer2.0"] == "layer2.1"
    assert frame.output_grad_norm["layer2.0"] > 0
    assert math.isnan(frame.alive["layer2.0"])  # its surrogate is none of its modules


# Errors.


def test_errors() -> None:
    model = Net()
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, got str"):
        GradientRecorder("model")
    with pytest.raises(TypeError, match="DistributedDataParallel"):
        GradientRecorder(nn.DataParallel(model))
    with pytest.raises(ValueError, match="no layer with weights"):
        GradientRecorder(nn.Sequential(neuron.LIFNode()))
    with pytest.raises(ValueError, match="activity=False"):
        GradientRecorder(model, per_step=True, activity=False)
    for when in (True, "often", None):
        with pytest.raises(TypeError, match="when must be"):
            GradientRecorder(model, when=when)
    with pytest.raises(ValueError, match="at least 1"):
        GradientRecorder(model, when=0)
    with pytest.raises(ValueError, match="at least 1"):
        log_spaced_steps(0)
    with pytest.raises(RuntimeError, match="with GradientRecorder"):
        GradientRecorder(model).step()
    recorder = GradientRecorder(model, scale=0.0001)
    with recorder:
        with pytest.raises(RuntimeError, match="enter it once"):
            recorder.__enter__()
        with pytest.raises(ValueError, match=r"tag 'depth'.*another name"):
            recorder.step(depth=3)
        with pytest.raises(RuntimeError, match="no forward pass"):
            recorder.step()
        model(images())
        with pytest.raises(RuntimeError, match=r"after loss\.backward"):
            recorder.step()
        recorder._scale = math.inf
        with pytest.raises(ValueError, match="scale must be"):
            recorder.step()


# Wrappers.


def test_compiled_model() -> None:
    torch.manual_seed(0)
    model = Net()
    eager = record(model, activity=False)
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(ValueError, match="activity=False"):
        GradientRecorder(compiled)
    torch.manual_seed(0)
    Net()
    with GradientRecorder(compiled, activity=False) as recorder:
        for _ in range(2):
            train_step(compiled, recorder)
    frame = recorder.frame
    assert frame.layer.tolist() == eager.index.tolist() * 2
    assert frame.depth.tolist() == [1, 2, 3, 4] * 2
    assert frame[frame.step == 0].weight_grad_norm.tolist() == pytest.approx(
        eager.weight_grad_norm.tolist(), rel=1e-6
    )
    assert hooks_on(compiled) == 0


def test_model_compiled_in_place() -> None:
    model = Net()
    model.compile(backend="eager")
    with pytest.raises(ValueError, match="compiled in place"):
        GradientRecorder(model, activity=False)
    model = Net()
    model.layer2 = torch.compile(model.layer2, backend="eager")
    with pytest.raises(ValueError, match=r"'layer2' is compiled"):
        GradientRecorder(model)


def test_no_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record(Net(), per_step=True)


# Two processes.


def record_in_ddp(rank: int) -> dict[bool, dict[str, list[Any]]]:
    frames = {}
    for all_ranks in (False, True):
        torch.manual_seed(0)
        model = DistributedDataParallel(Net())
        x = images(6)[:, rank::2]
        with GradientRecorder(model, all_ranks=all_ranks) as recorder:
            for _ in range(2):
                model.zero_grad()
                nn.functional.cross_entropy(model(x).mean(0), labels(6)[rank::2]).backward()
                measured = recorder.step(run="ddp")
                functional.reset_net(model)
        assert measured == (all_ranks or rank == 0)
        assert hooks_on(model.module) == 0
        frames[all_ranks] = recorder.frame
    return {key: frame.to_dict("list") for key, frame in frames.items()}


def test_distributed_data_parallel(tmp_path: Path) -> None:
    (first, every), (other, every_other) = (
        [pd.DataFrame(frames[key]) for key in (False, True)]
        for frames in on_ranks(record_in_ddp, tmp_path)
    )
    assert len(first) == 8 and len(other) == 0
    assert "rank" not in first and (every["rank"] == 0).all() and (every_other["rank"] == 1).all()
    assert first.layer.tolist()[:4] == ["layer1.0", "layer2.0", "layer3.0", "fc"]
    # The weights' gradient is that of the whole batch, in both processes.
    torch.manual_seed(0)
    model, x = Net(), images(6)
    with GradientRecorder(model) as recorder:
        nn.functional.cross_entropy(model(x).mean(0), labels(6)).backward()
        recorder.step()
    whole = recorder.frame
    for frame in (first, every, every_other):
        assert frame.weight_grad_norm.tolist()[:4] == pytest.approx(
            whole.weight_grad_norm.tolist(), rel=1e-5
        )
    # What neurons do is told by each process of its part.
    parts = [every.firing_rate[:3], every_other.firing_rate[:3]]
    assert parts[0].tolist() != parts[1].tolist()
    mean = (parts[0] + parts[1]) / 2
    assert mean.tolist() == pytest.approx(whole.firing_rate[:3].tolist())
