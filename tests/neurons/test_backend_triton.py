"""SpikingJelly 2.0.0's Triton neurons under shortcut heads, as far as a CPU can show."""

import importlib.util
import inspect
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from sj_shortcut import (
    ShortcutHead,
    ShortcutLoss,
    shortcut_branches,
    shortcut_logits,
    wrap_with_shortcuts,
)
from sj_shortcut.neurons.backend import has_cupy_backend
from tests.nets.small import gradients, labels

if has_cupy_backend():
    pytest.skip("SpikingJelly 0.0.0.0.14 has no Triton kernels", allow_module_level=True)
if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if "allow_override" not in inspect.signature(torch.library.Library.impl).parameters:
    pytest.skip(
        "this PyTorch lets no operator of SpikingJelly be replaced", allow_module_level=True
    )

NEURONS = {"if_": neuron.IFNode, "lif": neuron.LIFNode, "plif": neuron.ParametricLIFNode}
RESETS = {"hard": 0.0, "soft": None}
LOSSES: dict[str, dict[str, Any]] = {
    "loss": {},
    "logits": {"combine": "logits"},
    "per step": {"per_step": True},
}


def make_net(cls: type[nn.Module], v_reset: float | None, step_mode: str = "m") -> nn.Module:
    """The same weights every time; features [T, N, C, H, W], averaged over space by the heads."""
    torch.manual_seed(0)
    options = {
        "v_threshold": 0.1,
        "v_reset": v_reset,
        "surrogate_function": surrogate.ATan(),
    }
    model = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1),
        cls(**options),
        layer.Conv2d(4, 6, 3, stride=2, padding=1),
        cls(**options),
        layer.Conv2d(6, 6, 3, padding=1),
        cls(**options),
        layer.AdaptiveAvgPool2d(1),
        layer.Flatten(),
        layer.Linear(6, 4),
    )
    functional.set_step_mode(model, step_mode)
    from tests.neurons.triton_on_cpu import LAUNCHED

    launched = len(LAUNCHED)
    # An example, as made-up batches are large for an interpreter.
    example = images() if step_mode == "m" else images()[0]
    head = partial(ShortcutHead, grid=1)
    wrap_with_shortcuts(model, ["1", "3"], head=head, example_input=example)
    del LAUNCHED[launched:]  # the look is no training
    return model


def images(channels_last: bool = False) -> Tensor:
    x = 4 * torch.rand(3, 2, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    if channels_last:
        x = x.flatten(0, 1).to(memory_format=torch.channels_last).unflatten(0, (3, 2))
    return x


def train_step(model: nn.Module, x: Tensor, step_mode: str = "m", **options: Any) -> dict[str, Any]:
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), **options)
    output = model(x) if step_mode == "m" else torch.stack([model(step) for step in x])
    heads = shortcut_logits(model)
    criterion(output if options.get("per_step") else output.mean(0), labels(2)).backward()
    functional.reset_net(model)
    return {"output": output.detach(), "heads": heads, "gradients": gradients(model)}


def train_a_head_alone(model: nn.Module) -> dict[str, Any]:
    """What reaches the tapped neuron is an expanded gradient, of which memory holds a part."""
    handed: list[Tensor] = []

    def listen(module: nn.Module, args: Any, output: Tensor) -> None:
        output.register_hook(handed.append)

    model[1].register_forward_hook(listen)
    logits: list[Tensor] = []  # of a head with a hook, which runs by itself
    branch = shortcut_branches(model)["1"]
    branch.register_forward_hook(lambda module, args, output: logits.append(output))
    model(images())
    nn.functional.cross_entropy(logits[0], labels(2)).backward()
    functional.reset_net(model)
    return {"contiguous": handed[0].is_contiguous(), "gradient": model[0].weight.grad}


def run_all() -> dict[Any, Any]:
    results: dict[Any, Any] = {}
    for name, cls in NEURONS.items():
        for reset, v_reset in RESETS.items():
            results[name, reset] = train_step(make_net(cls, v_reset), images())
        results[name, "s"] = train_step(make_net(cls, 0.0, "s"), images(), "s")
        results[name, "channels last"] = train_step(
            make_net(cls, 0.0).to(memory_format=torch.channels_last), images(channels_last=True)
        )
        results[name, "head alone"] = train_a_head_alone(make_net(cls, 0.0))
    for loss, options in LOSSES.items():
        results["lif", loss] = train_step(make_net(neuron.LIFNode, 0.0), images(), **options)
    return results


def main(file: str) -> None:
    """In a process of its own: everything on PyTorch, and then on Triton."""
    from tests.neurons import triton_on_cpu

    torch.set_num_threads(1)
    results = {"torch": run_all()}
    for name in NEURONS:
        triton_on_cpu.install(name)
    results["triton"] = run_all()
    torch.save({**results, "launched": triton_on_cpu.LAUNCHED}, file)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("triton") / "results.pt"
    path = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])
    )
    subprocess.run(
        [
            sys.executable,
            "-c",
            f"import tests.neurons.test_backend_triton as t; t.main({str(file)!r})",
        ],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        check=True,
    )
    return torch.load(file)


CASES = [(name, case) for name in NEURONS for case in (*RESETS, "s", "channels last")]
CASES += [("lif", loss) for loss in LOSSES]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_kernels_train_heads_and_layers_as_torch_does(results, name, case):
    found, expected = results["triton"][name, case], results["torch"][name, case]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert all(grad.any() for grad in expected["gradients"].values())


@pytest.mark.parametrize("name", NEURONS)
def test_gradients_that_are_views_reach_the_kernels_whole(results, name):
    found, expected = results["triton"][name, "head alone"], results["torch"][name, "head alone"]
    assert not found["contiguous"]
    assert expected["gradient"].any()
    torch.testing.assert_close(found["gradient"], expected["gradient"])


def test_it_was_the_kernels_that_ran(results):
    calls = 3  # neurons of a network
    multi = len(NEURONS) * (len(RESETS) + 1) + len(LOSSES)  # trainings in step mode "m"
    single = len(NEURONS) * 3  # time steps in step mode "s"
    forward = calls * (multi + single + len(NEURONS))
    assert results["launched"].count("forward") == forward
    # A head alone reaches the first neuron only.
    assert results["launched"].count("backward") == calls * (multi + single) + len(NEURONS)
