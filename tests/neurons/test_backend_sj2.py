"""SpikingJelly 2.0.0, which picks kernels by itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import nn

from sj_shortcut.neurons.backend import has_cupy_backend, set_backend
from sj_shortcut.neurons.backend_sj2 import kernel_of
from tests.neurons.nets import (
    TRAINABLE,
    Block,
    Readout,
    assert_same_training,
    multi_step_net,
    needs_cuda,
    neuron_with_device,
    on_fake_cuda,
    second_generation,
    spikes_and_gradients,
)

NEURONS = {
    "ActivationAwareIFNode": {},
    "CUBALIFNode": {},
    "EIFNode": {},
    "HalfThresholdIFNode": {},
    "IFNode": {},
    "ILIFNode": {},
    "IzhikevichNode": {},
    "KLIFNode": {},
    "LIAFNode": {"act": nn.ReLU(), "threshold_related": False},
    "LIFNode": {},
    "MPBNLIFNode": {"out_features": 3},
    "OTTTLIFNode": {},
    "PSN": {"T": 4},
    "ParametricLIFNode": {},
    "QIFNode": {},
    "RAFNode": {},
    "SLTTLIFNode": {},
    "SimpleLIFNode": {"tau": 2.0, "decay_input": True},
    "SlidingPSN": {"k": 2},
    "TernaryLIFNode": {},
}
SINGLE_STEP_ONLY = ("OTTTLIFNode", "SLTTLIFNode")


class OwnForward(neuron.LIFNode):
    def forward(self, x):
        return super().single_step_forward(x)


def kernels_run(module):
    """List the kernels that a forward pass runs, under the names SpikingJelly registers."""
    x = torch.rand(4, 2, 3)
    with (
        torch.no_grad(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
    ):
        module(x if module.step_mode == "m" else x[0])
    names = {event.name.split("::")[0] for event in profile.events()}
    return {name.removeprefix("sj_") for name in names if name.startswith("sj_")}


@second_generation
@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("name", sorted(NEURONS))
def test_kernels_are_those_that_run(name, step_mode):
    # On the CPU too a kernel is called by its name. CLIF and STBIF do not show up there.
    if name == "PSN" and step_mode == "s" or name in SINGLE_STEP_ONLY and step_mode == "m":
        pytest.skip(f"{name} does not know step mode {step_mode!r}")
    module = getattr(neuron, name)(**NEURONS[name])
    module.step_mode = step_mode
    kernel = kernel_of(module)
    assert kernels_run(module) == (set() if kernel is None else {kernel})


@second_generation
def test_kernels_of_the_others_are_known_to_spikingjelly():
    cpu = torch.device("cpu")
    for module in (neuron.ComplementaryLIFNode(), neuron.STBIFNode(1.0, 4)):
        assert functional.neuron_implementation(kernel_of(module), cpu)


@second_generation
def test_rows_on_the_cpu():
    model = multi_step_net(
        Readout(),
        neuron.KLIFNode(),
        neuron.LIFNode(surrogate_function=surrogate.S2NN()),
        OwnForward(),
        neuron.FlexSN(lambda x, v: (x, v), num_states=1),
        neuron.ComplementaryLIFNode(surrogate_function=surrogate.Rect()),
    )
    rows = set_backend(model, "auto")
    assert {row.backend for row in rows} == {"torch"}
    assert [row.note for row in rows] == [
        "on cpu SpikingJelly runs PyTorch code",
        "SpikingJelly has no kernel for KLIFNode in multi-step mode",
        "surrogate function S2NN has no kernel",
        "SpikingJelly has no kernel for OwnForward in multi-step mode",
        "FlexSN uses Triton in multi-step mode on CUDA only",
        "on cpu SpikingJelly runs PyTorch code",
    ]
    assert set_backend(model, "torch") == rows


@second_generation
def test_cupy_names_the_generation_that_has_it():
    with pytest.raises(
        ValueError, match=r"'cupy' does not exist.*'auto'.*pip install .*==0\.0\.0\.0\.14; to check"
    ):
        set_backend(Block(), "cupy")


@second_generation
def test_triton_on_the_cpu_says_what_to_move():
    with pytest.raises(RuntimeError, match=r"CUDA device, and 0\.sn \(LIFNode\) is on cpu: call"):
        set_backend(nn.Sequential(Block()), "triton")


@second_generation
def test_device_without_implementation_names_module_and_variable():
    with pytest.raises(RuntimeError, match=r"sn \(LIFNode\) cannot run on meta.*SJ_LIF_CUDA_IMPL"):
        set_backend(Block().to("meta"))


@pytest.fixture
def picks(monkeypatch):
    """Answer for SpikingJelly on a GPU: what it picks for each kernel, and what it cannot have."""
    answers = {}

    def answer(kernel, device):
        assert device.type == "cuda"
        implementation, unavailable = answers[kernel]
        return {"implementation": implementation, "unavailable": unavailable}

    if not has_cupy_backend():
        monkeypatch.setattr(functional, "neuron_implementation", answer)
    return answers


@second_generation
def test_auto_on_cuda_tells_what_spikingjelly_picks(picks):
    picks |= {"lif": ("cuda", {}), "if": ("triton", {}), "activation_aware_if": ("cuda", {})}
    model = on_fake_cuda(
        multi_step_net(
            neuron.LIFNode(),
            neuron.IFNode(),
            neuron.ActivationAwareIFNode(),
            neuron.KLIFNode(),
            neuron.FlexSN(lambda x, v: (x, v), num_states=1),
        )
    )
    rows = set_backend(model)
    assert [row.backend for row in rows] == ["cuda", "triton", "cuda", "torch", "auto"]
    overruled = "SpikingJelly's pick on cuda:0; SJ_LIF_CUDA_IMPLEMENTATION overrules it"
    assert rows[0].note == overruled
    assert rows[2].note.endswith("; torch where gradients are needed")


@second_generation
def test_torch_on_cuda_is_met_or_refused(picks):
    model = on_fake_cuda(multi_step_net(neuron.LIFNode(), neuron.IFNode(), neuron.KLIFNode()))
    picks |= {"lif": ("torch", {}), "if": ("torch", {})}
    assert {row.backend for row in set_backend(model, "torch")} == {"torch"}
    picks |= {"if": ("triton", {"cuda": "no compiler"})}
    refusal = (
        r"2 \(IFNode\) runs on triton: set SJ_IF_CUDA_IMPLEMENTATION=torch before Python starts"
    )
    with pytest.raises(RuntimeError, match=refusal) as error:
        set_backend(model, "torch")
    assert "LIFNode)" not in str(error.value)


@second_generation
def test_triton_on_cuda_is_met_or_refused(picks):
    model = on_fake_cuda(multi_step_net(neuron.LIFNode(), neuron.KLIFNode()))
    picks |= {"lif": ("triton", {})}
    rows = set_backend(model, "triton")
    assert [row.backend for row in rows] == ["triton", "torch"]
    assert "no kernel for KLIFNode" in rows[1].note
    picks |= {"lif": ("torch", {"triton": "No module named 'triton'"})}
    remedy = r"; .* else pip install triton; to check: python -c 'import triton; .*'"
    unavailable = rf"\(triton is unavailable: No module named 'triton'{remedy}\)"
    reason = rf"1 \(LIFNode\) runs on torch {unavailable}: set"
    with pytest.raises(RuntimeError, match=reason):
        set_backend(model, "triton")


@second_generation
def test_triton_that_fits_no_neuron_is_an_error(picks):
    model = on_fake_cuda(multi_step_net(neuron.KLIFNode()))
    with pytest.raises(RuntimeError, match=r"fits no neuron of the model: 1 \(KLIFNode\)"):
        set_backend(model, "triton")


@second_generation
def test_flexsn_on_cuda_cannot_be_told_to_use_torch(picks):
    model = on_fake_cuda(multi_step_net(neuron.FlexSN(lambda x, v: (x, v), num_states=1)))
    with pytest.raises(RuntimeError, match=r"1 \(FlexSN\).*moving the model to the CPU"):
        set_backend(model, "torch")


@second_generation
def test_a_neuron_without_a_step_mode_is_not_guessed_at():
    class Careless(neuron.LIFNode):
        def __init__(self):
            nn.Module.__init__(self)

    with pytest.raises(RuntimeError, match=r"Careless has no step mode.*call super\(\)"):
        set_backend(nn.Sequential(Careless()))


@second_generation
def test_a_neuron_that_knows_one_step_mode_only():
    assert kernel_of(neuron.PSN(T=4)) is None
    (row,) = set_backend(nn.Sequential(neuron.PSN(T=4)))
    assert row.note == "SpikingJelly has no kernel for PSN in multi-step mode"


@pytest.mark.gpu
@needs_cuda
@second_generation
@pytest.mark.parametrize("cls", TRAINABLE)
def test_what_auto_picks_trains_like_the_cpu(cls):
    expected = spikes_and_gradients(neuron_with_device(cls), "cpu")
    model = neuron_with_device(cls).cuda()
    assert set_backend(model)[0].backend in ("cuda", "triton", "torch")
    assert_same_training(spikes_and_gradients(model), expected)


@pytest.mark.gpu
@needs_cuda
@second_generation
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_the_variable_that_errors_name_brings_the_backend(backend, tmp_path):
    script = f"""
import torch
from spikingjelly.activation_based import neuron
from sj_shortcut.neurons.backend import set_backend
from tests.neurons.nets import neuron_with_device, spikes_and_gradients

model = neuron_with_device(neuron.LIFNode).cuda()
assert set_backend(model, {backend!r})[0].backend == {backend!r}
torch.save(spikes_and_gradients(model), {str(tmp_path / "result.pt")!r})
"""
    path = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])
    )
    variables = {"SJ_LIF_CUDA_IMPLEMENTATION": backend, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, **variables})
    expected = spikes_and_gradients(neuron_with_device(neuron.LIFNode), "cpu")
    assert_same_training(torch.load(tmp_path / "result.pt"), expected)
