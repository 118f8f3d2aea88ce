import copy
import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import base, functional, layer, neuron, surrogate
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sj_shortcut.neurons.backend import (
    NeuronBackend,
    NeuronBackends,
    _kernel,
    has_cupy_backend,
    is_spiking_neuron,
    set_backend,
)

first_generation = pytest.mark.skipif(
    not has_cupy_backend(), reason="SpikingJelly 2.0.0 picks kernels by itself"
)
second_generation = pytest.mark.skipif(
    has_cupy_backend(), reason="SpikingJelly 0.0.0.0.14 has no kernels but CuPy's"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

# Every class of both generations, decided by hand: a class that is in none must be thought about.
SPIKING = """
    ActivationAwareIFNode AdaptBaseNode BaseNode CUBALIFNode ComplementaryLIFNode DSRIFNode
    DSRLIFNode EIFNode FewSpikeNode FlexSN GatedLIFNode HGNode HalfThresholdIFNode IFNode
    ILCBaseNode ILCCUBALIFNode ILCIFNode ILCLIFNode ILIFNode IzhikevichNode KLIFNode LIAFNode
    LIFNode MPBNBaseNode MPBNLIFNode MaskedPSN NoisyBaseNode NoisyCUBALIFNode NoisyILCBaseNode
    NoisyILCCUBALIFNode OTTTLIFNode OutlierAwareThresholdNode PSN ParametricLIFNode QIFNode RAFNode
    SLTTLIFNode STBIFNode SimpleBaseNode SimpleIFNode SimpleLIFNode SlidingPSN TernaryIFNode
    TernaryLIFNode
""".split()
NOT_SPIKING = """
    NoisyNonSpikingBaseNode NoisyNonSpikingIFNode NonSpikingBaseNode NonSpikingIFNode
    NonSpikingLIFNode
""".split()
INSTALLED = {
    name: cls
    for name, cls in inspect.getmembers(neuron, inspect.isclass)
    if issubclass(cls, nn.Module) and cls.__module__.startswith(neuron.__name__)
}


class Readout(neuron.LIFNode):
    """A user's neuron."""


class NonSpikingLIF(neuron.LIFNode):
    """What SpikingJelly's reinforcement learning examples put at the end of a network."""


class Block(nn.Module):
    def __init__(self, **kwargs):
        super().__init__()
        self.fc = layer.Linear(4, 4)
        self.sn = neuron.LIFNode(**kwargs)


def multi_step_net(*neurons):
    net = nn.Sequential(layer.Linear(4, 4), *neurons)
    functional.set_step_mode(net, "m")
    return net


def backends(model):
    return [getattr(module, "backend", None) for module in model.modules()]


# Which modules are spiking neurons


@pytest.mark.parametrize("name", sorted(INSTALLED))
def test_every_class_of_the_installed_generation_is_decided(name):
    assert (name in SPIKING) != (name in NOT_SPIKING)
    # What a class is does not hang on how its instances are made, and some are hard to make.
    bare = INSTALLED[name].__new__(INSTALLED[name])
    assert is_spiking_neuron(bare) == (name in SPIKING)


def test_the_installed_classes_were_found():
    assert len(INSTALLED) >= 10


def test_users_subclasses_count_and_non_spiking_ones_do_not():
    assert is_spiking_neuron(Readout())
    assert not is_spiking_neuron(NonSpikingLIF())


def test_other_modules_are_no_neurons():
    model = nn.Sequential(layer.Linear(2, 2), neuron.LIFNode(), layer.Dropout(), nn.ReLU())
    assert [name for name, m in model.named_modules() if is_spiking_neuron(m)] == ["1"]
    assert "1.surrogate_function" in dict(model.named_modules())


def test_extra_types_count_whatever_they_are_called():
    assert is_spiking_neuron(nn.ReLU(), extra=(nn.ReLU,))
    assert is_spiking_neuron(NonSpikingLIF(), extra=(NonSpikingLIF,))
    assert not is_spiking_neuron(nn.ReLU(), extra=(nn.GELU,))


# set_backend: what holds for both generations


def test_unknown_backend_lists_the_known_ones_and_a_near_match():
    with pytest.raises(ValueError, match=r"'auto', 'torch', 'cupy', 'triton', not 'tritn'\. Did.*"):
        set_backend(Block(), "tritn")
    with pytest.raises(ValueError, match=r"not 'CuPy'\. Did you mean 'cupy'\?"):
        set_backend(Block(), "CuPy")
    with pytest.raises(ValueError, match=r"not 3\.$"):
        set_backend(Block(), 3)


def test_model_without_neurons_is_refused():
    with pytest.raises(ValueError, match=r"model \(Linear\) has no spiking neuron"):
        set_backend(nn.Linear(2, 2))


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, not list"):
        set_backend([neuron.LIFNode()])


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_one_row_for_each_neuron_with_its_path_and_class(backend):
    shared = neuron.IFNode()
    model = nn.Sequential(Block(), shared, shared, nn.Sequential(Block()), NonSpikingLIF())
    rows = set_backend(model, backend)
    assert [(row.name, row.module) for row in rows] == [
        ("0.sn", "LIFNode"),
        ("1", "IFNode"),
        ("3.0.sn", "LIFNode"),
    ]
    assert {row.backend for row in rows} == {"torch"}
    assert all(row.note for row in rows)


def test_a_neuron_is_a_model_too():
    rows = set_backend(neuron.LIFNode())
    assert [row.name for row in rows] == [""]
    assert "(model)  LIFNode  torch" in repr(rows)


def test_rows_print_as_an_aligned_table():
    rows = NeuronBackends(
        [
            NeuronBackend("layer1.0.sn1", "LIFNode", "torch", "as asked"),
            NeuronBackend("sn", "ParametricLIFNode", "cupy", "on cuda:0"),
        ]
    )
    assert repr(rows) == str(rows)
    assert repr(rows).splitlines() == [
        "name          module             backend  note",
        "layer1.0.sn1  LIFNode            torch    as asked",
        "sn            ParametricLIFNode  cupy     on cuda:0",
    ]


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_the_model_computes_the_same_afterwards(backend):
    model = multi_step_net(neuron.LIFNode(), neuron.IFNode())
    x = torch.rand(3, 2, 4)
    expected = copy.deepcopy(model)(x)
    keys = list(model.state_dict())
    set_backend(model, backend)
    assert torch.equal(model(x), expected)
    assert list(model.state_dict()) == keys


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU these are no errors")
@pytest.mark.parametrize("backend", ["cupy", "triton"])
def test_nothing_changes_on_an_error(backend):
    model = multi_step_net(neuron.LIFNode(), neuron.KLIFNode())
    before = backends(model)
    with pytest.raises((RuntimeError, ValueError)):
        set_backend(model, backend)
    assert backends(model) == before


# SpikingJelly 0.0.0.0.14


@pytest.fixture
def pretend_cuda(monkeypatch):
    """Let selection be tested without a GPU: once called, CuPy and CUDA say that they are there."""

    def pretend():
        monkeypatch.setattr(base, "check_backend_library", lambda backend: None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(np, "int", int, raising=False)  # which some CuPy kernels ask for

    return pretend


def on_fake_cuda(model):
    """Make a model's parameters say that they are on CUDA; it can no longer be run."""
    with FakeTensorMode():
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                fake = torch.empty(parameter.shape, device="cuda")
                setattr(module, name, nn.Parameter(fake))
    return model


@first_generation
def test_triton_names_the_generation_that_has_it():
    with pytest.raises(ValueError, match=r"'triton' does not exist.*'auto' or 'cupy'.*2\.0\.0"):
        set_backend(Block(), "triton")


@first_generation
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what lacks without a GPU")
def test_cupy_says_all_that_is_missing_and_how_to_get_it():
    with pytest.raises(RuntimeError) as error:
        set_backend(nn.Sequential(Block(step_mode="m")), "cupy")
    assert "PyTorch sees no CUDA GPU (it takes an NVIDIA GPU" in str(error.value)
    assert "0.sn (LIFNode) is on cpu (call model.to('cuda') first)" in str(error.value)
    if base.cupy is None:
        assert "CuPy cannot be imported (pip install cupy-cuda" in str(error.value)


@first_generation
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what lacks without a GPU")
def test_auto_says_why_it_is_torch():
    (row,) = set_backend(Block(step_mode="m"), "auto")
    assert "PyTorch sees no CUDA GPU" in row.note


@first_generation
def test_auto_keeps_a_model_on_the_cpu_on_torch(pretend_cuda):
    pretend_cuda()
    (row,) = set_backend(Block(step_mode="m"), "auto")
    assert (row.backend, row.note) == ("torch", "on cpu, and CuPy needs CUDA")


@first_generation
@pytest.mark.parametrize("backend", ["auto", "cupy"])
def test_cupy_goes_where_it_can_and_rows_say_why_not_elsewhere(pretend_cuda, backend):
    model = on_fake_cuda(
        multi_step_net(
            neuron.LIFNode(),
            neuron.KLIFNode(),
            neuron.IFNode(surrogate_function=surrogate.Erf()),
            neuron.ParametricLIFNode(),
            neuron.EIFNode(),
        )
    )
    model[5].step_mode = "s"
    pretend_cuda()
    rows = set_backend(model, backend)
    assert [row.backend for row in rows] == ["cupy", "torch", "torch", "cupy", "torch"]
    assert [module.backend for module in model[1:]] == [row.backend for row in rows]
    assert rows[0].note == "CuPy kernels on cuda:0"
    assert rows[1].note == "KLIFNode has no CuPy kernels"
    assert rows[2].note == "surrogate function Erf has no CUDA code"
    assert rows[4].note == "single-step mode has no CuPy kernels (step_mode='m' may)"


@first_generation
def test_torch_takes_cupy_away_again(pretend_cuda):
    model = on_fake_cuda(multi_step_net(neuron.LIFNode()))
    pretend_cuda()
    assert set_backend(model, "cupy")[0].backend == "cupy"
    assert set_backend(model, "torch")[0].backend == "torch"
    assert model[1].backend == "torch"


@first_generation
def test_cupy_that_fits_no_neuron_is_an_error(pretend_cuda):
    model = on_fake_cuda(nn.Sequential(layer.Linear(2, 2), neuron.LIFNode(), neuron.KLIFNode()))
    pretend_cuda()
    with pytest.raises(RuntimeError, match=r"fits no neuron.*1 \(LIFNode\): single-step.*set_step"):
        set_backend(model, "cupy")
    assert [model[1].backend, model[2].backend] == ["torch", "torch"]


@first_generation
def test_one_neuron_on_the_cpu_keeps_cupy_from_all(pretend_cuda):
    model = nn.Sequential(on_fake_cuda(multi_step_net(neuron.LIFNode())), Block(step_mode="m"))
    pretend_cuda()
    with pytest.raises(RuntimeError, match=r"1\.sn \(LIFNode\) is on cpu"):
        set_backend(model, "cupy")
    assert model[0][1].backend == "torch"


# SpikingJelly 2.0.0

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
    kernel = _kernel(module)
    assert kernels_run(module) == (set() if kernel is None else {kernel})


@second_generation
def test_kernels_of_the_others_are_known_to_spikingjelly():
    cpu = torch.device("cpu")
    for module in (neuron.ComplementaryLIFNode(), neuron.STBIFNode(1.0, 4)):
        assert functional.neuron_implementation(_kernel(module), cpu)


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
    with pytest.raises(ValueError, match=r"'cupy' does not exist.*'auto'.*0\.0\.0\.0\.14"):
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
    reason = r"1 \(LIFNode\) runs on torch \(triton is unavailable: No module named 'triton'\): set"
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


# On a GPU


def spikes_and_gradients(model, device="cuda"):
    torch.manual_seed(0)
    x = (torch.rand(4, 2, 64) * 2).to(device).requires_grad_()
    functional.reset_net(model)
    spikes = model(x)
    (spikes * torch.linspace(0, 1, 64, device=device)).sum().backward()
    return spikes.detach().cpu(), x.grad.cpu()


def assert_same_training(one, other):
    assert torch.equal(one[0], other[0])
    assert 0 < one[0].mean() < 1
    torch.testing.assert_close(one[1], other[1], rtol=1e-4, atol=1e-5)


TRAINABLE = [neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode, neuron.EIFNode]


def neuron_with_device(cls):
    # The scale is a parameter, so that neurons without any have a device to be on.
    return nn.Sequential(nn.PReLU(), cls(step_mode="m"))


@pytest.mark.gpu
@needs_cuda
@first_generation
@pytest.mark.parametrize("cls", TRAINABLE)
def test_cupy_trains_like_torch(cls, monkeypatch):
    pytest.importorskip("cupy")
    monkeypatch.setattr(np, "int", int, raising=False)
    model = neuron_with_device(cls).cuda()
    assert set_backend(model, "torch")[0].backend == "torch"
    expected = spikes_and_gradients(model)
    assert set_backend(model, "cupy")[0].backend == "cupy"
    assert_same_training(spikes_and_gradients(model), expected)


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
from tests.neurons.test_backend import neuron_with_device, spikes_and_gradients

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
