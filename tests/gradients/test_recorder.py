import math
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sj_shortcut import (
    GradientRecorder,
    ShortcutLoss,
    ShortcutWarning,
    every_steps,
    wrap_with_shortcuts,
)
from tests.gradients.tools import hooks_on, record, train_step
from tests.nets.small import Net, images, labels, skip_unless_neurons_compile
from tests.nets.zoo import ZOO
from tests.ranks import on_ranks
from tests.refusals import refused

CONTRACT = [
    "layer", "depth", "module", "weight_grad_norm", "weight_grad_rms", "weight_norm",
    "grad_to_weight", "zero_fraction", "output_grad_norm", "alive", "firing_rate",
]  # fmt: skip


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


def test_no_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record(Net(), per_step=True)


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


# Mixed precision, and several backward passes.


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


def test_two_backward_passes_through_one_forward() -> None:
    model = Net()
    with GradientRecorder(model) as recorder:
        out = model(images())
        out[0].sum().backward(retain_graph=True)
        out[1].sum().backward()
        with pytest.warns(ShortcutWarning) as warned:
            recorder.step()
    assert [str(warning.message) for warning in warned] == [
        "two backward passes went through one forward pass at 'layer1.1': norms of parts do not "
        "add up, so output_grad_norm is NaN there. Add the losses up and call backward() once."
    ]
    frame = recorder.frame.set_index("layer")
    assert frame.output_grad_norm.isna().all()
    assert frame.weight_grad_norm["fc"] == pytest.approx(model.fc.weight.grad.norm().item())


# Errors.


def test_wrong_arguments() -> None:
    model = Net()
    with refused(TypeError, "model must be a torch.nn.Module, got str."):
        GradientRecorder("model")
    with pytest.raises(TypeError, match="nn.DataParallel.*: use .*DistributedDataParallel"):
        GradientRecorder(nn.DataParallel(model))
    with refused(
        ValueError,
        "Sequential has no layer with weights (linear or convolution) whose gradient could be "
        "recorded.",
    ):
        GradientRecorder(nn.Sequential(neuron.LIFNode()))
    with refused(ValueError, "per_step=True is about spiking layers, which activity=False leaves."):
        GradientRecorder(model, per_step=True, activity=False)
    with pytest.raises(TypeError, match="when must be"):
        GradientRecorder(model, when=None)


def test_wrong_order() -> None:
    model = Net()
    outside = "step() records inside `with GradientRecorder(model) as ...:` only."
    with refused(RuntimeError, outside):
        GradientRecorder(model).step()
    with GradientRecorder(model) as recorder:
        with refused(RuntimeError, "this GradientRecorder is recording already: enter it once."):
            recorder.__enter__()
        with pytest.raises(ValueError, match="the tag 'depth'"):
            recorder.step(depth=3)
        with refused(
            RuntimeError,
            "no forward pass of the model has been seen: enter GradientRecorder before it, and "
            "call the model itself, not its forward method.",
        ):
            recorder.step()
        model(images())
        with refused(
            RuntimeError,
            "no layer has a gradient: call step() after loss.backward() and before "
            "optimizer.zero_grad().",
        ):
            recorder.step()
    with refused(RuntimeError, outside):
        recorder.step()


@pytest.mark.parametrize("scale", [-1.0, math.inf, math.nan])
def test_wrong_scale(scale: float) -> None:
    with GradientRecorder(model := Net(), scale=lambda: scale) as recorder:
        model(images()).sum().backward()
        with refused(ValueError, f"scale must be finite and above 0, got {scale}."):
            recorder.step()


# Wrappers.


def test_compiled_model() -> None:
    skip_unless_neurons_compile()
    torch.manual_seed(0)
    model = Net()
    eager = record(model, activity=False)
    compiled = torch.compile(model, backend="eager")
    with refused(
        ValueError,
        "the model is compiled, and compiled code runs no hooks, so its spiking layers cannot be "
        "measured: pass activity=False for the weights alone, or record the model before "
        "compiling it.",
    ):
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
    advice = (
        "is compiled in place, and compiled code runs no hooks. Record before compiling, or "
        "compile the whole with torch.compile(model) and record that with activity=False."
    )
    with refused(ValueError, f"Net cannot be recorded: it {advice}"):
        GradientRecorder(model, activity=False)
    model = Net()
    model.layer2 = torch.compile(model.layer2, backend="eager")
    with refused(ValueError, f"Net cannot be recorded: its submodule 'layer2' {advice}"):
        GradientRecorder(model)


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
