"""What only a GPU can show: neuron kernels, GradScaler, NCCL, inductor (steps of `make gpu`)."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from analysis.gpu import steps
from analysis.gpu.steps import (
    BACKENDS,
    MIXED,
    NEURONS,
    amp_step,
    batch,
    exact,
    make_net,
    train_step,
)
from sj_shortcut import (
    ConstantSchedule,
    EvolutionarySchedule,
    HandoverSchedule,
    ShortcutLoss,
    gradient_flow,
    remove_shortcuts,
    shortcut_branches,
    shortcut_logits,
    shortcut_parameters,
    spike_report,
    wrap_with_shortcuts,
)
from sj_shortcut.neurons.backend import has_cupy_backend

pytestmark = pytest.mark.gpu


@functools.cache
def results_of(backend: str) -> dict[Any, dict[str, Any]]:
    if backend == "cupy":
        pytest.importorskip("cupy", reason="needs CuPy: pip install cupy-cuda12x, or as fits CUDA")
    try:
        return steps.results_of(backend)
    except steps.UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _exactly():
    exact()


# Neuron backends


@pytest.fixture(params=BACKENDS)
def compared(request) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Results of a backend, and those of the torch backend on the same GPU."""
    return results_of(request.param), results_of("torch")


CASES = ["m", "per step"] if has_cupy_backend() else ["m", "s", "per step"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NEURONS)
def test_logits_and_gradients_are_those_of_the_torch_backend(compared, name, case):
    found, expected = (results[name, case] for results in compared)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert all(grad.any() for grad in expected["gradients"].values())


@pytest.mark.parametrize("name", NEURONS)
def test_grad_scaler_steps_every_weight(name):
    in_full = results_of("torch")
    found, expected = results_of(MIXED)[name, "amp"], in_full[name, "amp"]
    for result in (found, expected):
        assert result["scale"] == 2.0**10  # no step was skipped
        for weight, after in result["after"].items():
            assert after.isfinite().all(), weight
            assert not after.equal(result["before"][weight]), weight
    # Half precision moves spikes; the loss averages over them.
    assert found["loss"] == pytest.approx(expected["loss"], rel=0.1)
    full = in_full[name, "m"]["loss"].item()
    assert expected["loss"] == pytest.approx(full, rel=0.1)


@pytest.mark.parametrize("name", NEURONS)
def test_the_gpu_trains_as_the_cpu_does(name):
    on_gpu = train_step(make_net(NEURONS[name]).cuda())
    model = make_net(NEURONS[name])
    x, y = (tensor.cpu() for tensor in batch())
    output = model(x).mean(0)
    heads = shortcut_logits(model)
    ShortcutLoss(model, nn.CrossEntropyLoss())(output, y).backward()
    torch.testing.assert_close(on_gpu["output"], output.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(on_gpu["heads"], heads, rtol=1e-3, atol=1e-4)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(on_gpu["gradients"], gradients, rtol=1e-2, atol=1e-4)


# Contracts of wrapping


def test_wrapping_on_the_gpu_keeps_its_random_numbers_and_puts_heads_there():
    model = remove_shortcuts(make_net(neuron.LIFNode)).cuda().half()
    state = torch.cuda.get_rng_state()
    wrap_with_shortcuts(model, ["2", "5"])
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert {(p.device.type, p.dtype) for p in shortcut_parameters(model)} == {
        ("cuda", torch.float16)
    }


def test_a_scale_that_overflows_skips_the_step_for_heads_too():
    result = amp_step(make_net(neuron.LIFNode).cuda(), init_scale=2.0**60)
    assert result["scale"] == 2.0**59
    assert all(result["after"][name].equal(value) for name, value in result["before"].items())


# Nothing waits for the device

WAITLESS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "logits": {"combine": "logits"},
    "per step": {"per_step": True, "combine": "logits"},
    "evolutionary": {"schedule": EvolutionarySchedule(4)},
    "handover": {"schedule": HandoverSchedule()},
    "price": {"price": True},
}


@pytest.mark.parametrize("step_mode", ["m", "s"])
@pytest.mark.parametrize("case", WAITLESS)
def test_a_training_step_waits_for_nothing(case, step_mode):
    options = copy.deepcopy(WAITLESS[case])
    model = make_net(neuron.LIFNode, step_mode).cuda()
    loss = ShortcutLoss(model, nn.CrossEntropyLoss(), **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = batch()

    def step() -> None:
        optimizer.zero_grad()
        output = model(x) if step_mode == "m" else torch.stack([model(frame) for frame in x])
        loss(output if options.get("per_step") else output.mean(0), y).backward()
        optimizer.step()
        functional.reset_net(model)

    for _ in range(2):  # the first batch is looked at
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Measuring


@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_spikes_are_counted_as_on_the_cpu(step_mode):
    model = make_net(neuron.LIFNode, step_mode)
    expected = spike_report(model, batch(device="cpu"), energy=True)
    found = spike_report(model.cuda(), batch(), energy=True)
    assert expected["spikes"].sum() > 0
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3)


@pytest.mark.parametrize("by_source", [False, True])
def test_gradients_are_measured_as_on_the_cpu(by_source):
    frames = []
    for device in ("cpu", "cuda"):
        model = make_net(neuron.LIFNode).to(device)
        loss = ShortcutLoss(model, nn.CrossEntropyLoss())
        x_and_y = batch(device=device)
        frames.append(gradient_flow(model, loss, x_and_y, by_source=by_source))
    pd.testing.assert_frame_equal(frames[1], frames[0], rtol=1e-2)


# torch.compile


@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_inductor_trains_as_eager_does(step_mode):
    torch.compiler.reset()
    model = make_net(neuron.LIFNode, step_mode).cuda()
    twin = copy.deepcopy(model)
    expected = train_step(model, step_mode)
    found = train_step(torch.compile(twin), step_mode)
    found["gradients"] = {name.removeprefix("_orig_mod."): grad
                          for name, grad in found["gradients"].items()}  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


# NCCL: two GPUs with half of each batch, or one with all of it, against one process

STEPS = 3
LOSSES = {"coefficient 1": 1.0, "coefficient 0": 0.0, "loss without heads": None}


def group_norms(model: nn.Module) -> nn.Module:
    """Norms without statistics of the batch, of which a process sees only a part."""
    for name, module in model.named_children():
        if isinstance(module, layer.BatchNorm2d):
            norm = layer.GroupNorm(2, module.num_features, step_mode="m")
            model.set_submodule(name, norm)
    return model


def train(model: nn.Module, coefficient: float | None, rank: int = 0, world: int = 1) -> None:
    criterion: Callable[..., Tensor] = nn.CrossEntropyLoss()
    if coefficient is not None:
        criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(coefficient))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = batch()
    for _ in range(STEPS):
        optimizer.zero_grad()
        criterion(model(x[:, rank::world]).mean(0), y[rank::world]).backward()
        functional.reset_net(model)
        optimizer.step()


def on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in state.items()}


def ddp_states(rank: int, world: int) -> dict[str, dict[str, Tensor]]:
    states = {}
    for loss, coefficient in LOSSES.items():
        model = merged_norms(make_net(neuron.LIFNode))
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model).cuda()
        train(DistributedDataParallel(model, device_ids=[rank]), coefficient, rank, world)
        states[loss] = on_cpu(model.state_dict())
    return states


def merged_norms(model: nn.Module) -> nn.Module:
    """PyTorch's norms over time and batch as one axis, as SpikingJelly's are; SyncBatchNorm fits.

    SpikingJelly's own would turn into a SyncBatchNorm that takes the batch for the channels.
    """
    for name, module in model.named_children():
        if isinstance(module, layer.BatchNorm2d):
            model.set_submodule(name, Merged(nn.BatchNorm2d(module.num_features)))
    return model


class Merged(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.flatten(0, 1)).reshape(x.shape)


def fsdp_state(rank: int, world: int) -> dict[str, Tensor]:
    model = group_norms(make_net(neuron.LIFNode)).cuda()
    for branch in shortcut_branches(model).values():
        fully_shard(branch)
    for part in (model[0], model[3], model[6]):
        fully_shard(part)
    fully_shard(model)
    train(model, 1.0, rank, world)
    return on_cpu(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)))


def one_rank(rank: int, world: int, folder: str) -> None:
    exact()
    torch.cuda.set_device(rank)
    dist.init_process_group(
        "nccl", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    results = {"ddp": ddp_states(rank, world), "fsdp": fsdp_state(rank, world)}
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Any]]:
    if not dist.is_nccl_available():
        pytest.skip("PyTorch lacks NCCL")
    folder = tmp_path_factory.mktemp("ranks")
    world = min(2, torch.cuda.device_count())
    mp.spawn(one_rank, args=(world, str(folder)), nprocs=world)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(world)]


def assert_trained(
    states: list[dict[str, Tensor]], model: nn.Module, start: dict[str, Tensor], heads: bool
) -> None:
    """All ranks alike, like one process, and heads moved only if they were to."""
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=0, atol=0)
    torch.testing.assert_close(states[0], on_cpu(model.state_dict()), rtol=1e-3, atol=1e-5)
    for name, value in states[0].items():
        if "shortcut_head" in name:
            assert value.equal(start[name]) != heads, name


@pytest.mark.parametrize("loss", LOSSES)
def test_ddp_over_nccl_trains_as_one_process_does(ranks, loss):
    model = merged_norms(make_net(neuron.LIFNode))
    start = copy.deepcopy(model.state_dict())
    train(model.cuda(), LOSSES[loss])
    states = [results["ddp"][loss] for results in ranks]
    assert_trained(states, model, start, heads=loss == "coefficient 1")


def test_fsdp2_over_nccl_trains_as_one_process_does(ranks):
    model = group_norms(make_net(neuron.LIFNode))
    start = copy.deepcopy(model.state_dict())
    train(model.cuda(), 1.0)
    assert_trained([results["fsdp"] for results in ranks], model, start, heads=True)
