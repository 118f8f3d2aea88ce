"""What only a GPU can show: neuron kernels, GradScaler, NCCL, inductor.

SpikingJelly 2.0.0 picks its kernels once in a process, so each choice gets a process of its own.
"""

import copy
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from sj_shortcut import (
    ConstantSchedule,
    ShortcutLoss,
    remove_shortcuts,
    set_backend,
    shortcut_branches,
    shortcut_logits,
    shortcut_parameters,
    wrap_with_shortcuts,
)
from sj_shortcut.neurons.backend import has_cupy_backend

pytestmark = pytest.mark.gpu

T, N, CLASSES = 4, 8, 10
NEURONS = {"if": neuron.IFNode, "lif": neuron.LIFNode, "plif": neuron.ParametricLIFNode}
BACKENDS = ["cupy"] if has_cupy_backend() else ["triton", "cuda"]
UNAVAILABLE = 77  # exit status of a process whose backend cannot be had here


# What is trained


def make_net(cls: type[nn.Module], step_mode: str = "m") -> nn.Module:
    """The same weights and heads every time; on the CPU."""
    torch.manual_seed(0)
    options = {"v_threshold": 0.5, "surrogate_function": surrogate.ATan()}

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [
            layer.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            layer.BatchNorm2d(outputs),
            cls(**options),
        ]

    model = nn.Sequential(
        *block(2, 8, 1),
        *block(8, 16, 2),
        *block(16, 16, 2),
        layer.AdaptiveAvgPool2d(1),
        layer.Flatten(),
        layer.Linear(16, CLASSES),
    )
    functional.set_step_mode(model, step_mode)
    return wrap_with_shortcuts(model, ["2", "5"])


def batch(size: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.rand(T, size, 2, 8, 8, generator=generator)
    return x.cuda(), (torch.arange(size) % CLASSES).cuda()


def forward(model: nn.Module, x: Tensor, step_mode: str) -> Tensor:
    output = model(x) if step_mode == "m" else torch.stack([model(step) for step in x])
    return output.mean(0)


def train_step(model: nn.Module, step_mode: str = "m", **options: Any) -> dict[str, Any]:
    """Logits, heads' logits and gradients of one step, on the CPU."""
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), **options)
    x, y = batch()
    output = forward(model, x, step_mode)
    heads = shortcut_logits(model)
    loss = criterion(output, y)
    loss.backward()
    functional.reset_net(model)
    return {
        "loss": loss.detach().cpu(),
        "output": output.detach().cpu(),
        "heads": {name: logits.cpu() for name, logits in heads.items()},
        "gradients": {name: p.grad.cpu() for name, p in model.named_parameters()},
    }


def amp_step(model: nn.Module, init_scale: float = 2.0**10) -> dict[str, Any]:
    """One step of SGD in half precision with a GradScaler; the weights before and after it."""
    before = {name: p.detach().cpu().clone() for name, p in model.named_parameters()}
    scaler = torch.amp.GradScaler("cuda", init_scale=init_scale)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    x, y = batch()
    with torch.autocast("cuda", torch.float16):
        loss = criterion(forward(model, x, "m"), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    functional.reset_net(model)
    after = {name: p.detach().cpu().clone() for name, p in model.named_parameters()}
    return {"loss": loss.item(), "before": before, "after": after, "scale": scaler.get_scale()}


def exact() -> None:
    """No TF32, no choice of algorithms: backends are to differ in the neurons only."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def with_backend(model: nn.Module, backend: str) -> nn.Module:
    """The model on the GPU, its neurons running on ``backend``, which is checked."""
    # set_backend has no name for native CUDA, which is SpikingJelly's to pick.
    rows = set_backend(model.cuda(), "auto" if backend == "cuda" else backend)
    assert {row.backend for row in rows} == {backend}, rows
    return model


def run_all(backend: str) -> dict[Any, dict[str, Any]]:
    """Everything that is compared between backends."""
    exact()
    results: dict[Any, dict[str, Any]] = {}
    for name, cls in NEURONS.items():
        for step_mode in "m" if has_cupy_backend() else "ms":
            model = with_backend(make_net(cls, step_mode), backend)
            results[name, step_mode] = train_step(model, step_mode)
        model = with_backend(make_net(cls), backend)
        results[name, "per step"] = per_step(model)
        results[name, "amp"] = amp_step(with_backend(make_net(cls), backend))
    return results


def per_step(model: nn.Module) -> dict[str, Any]:
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), per_step=True, combine="logits")
    x, y = batch()
    loss = criterion(model(x), y)
    loss.backward()
    functional.reset_net(model)
    gradients = {name: p.grad.cpu() for name, p in model.named_parameters()}
    return {"loss": loss.detach().cpu(), "gradients": gradients}


@functools.cache
def results_of(backend: str) -> dict[Any, dict[str, Any]]:
    if has_cupy_backend():
        return run_all(backend)
    return results_of_process(backend)


def results_of_process(backend: str) -> dict[Any, dict[str, Any]]:
    script = (
        "import sys, torch\n"
        "from tests.behaviour import test_gpu\n"
        "try:\n"
        f"    test_gpu.with_backend(test_gpu.make_net(test_gpu.neuron.LIFNode), {backend!r})\n"
        "except RuntimeError as error:\n"
        f"    print(error); sys.exit({UNAVAILABLE})\n"
        f"torch.save(test_gpu.run_all({backend!r}), sys.argv[1])\n"
    )
    variables = {f"SJ_{kernel.upper()}_CUDA_IMPLEMENTATION": backend for kernel in NEURONS}
    tests = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "results.pt")
        done = subprocess.run(
            [sys.executable, "-c", script, str(file)],
            env={**os.environ, **variables, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        if done.returncode == UNAVAILABLE:
            pytest.skip(f"SpikingJelly cannot run on {backend} here: {done.stdout.strip()}")
        assert done.returncode == 0, done.stderr
        return torch.load(file)


@pytest.fixture(autouse=True)
def _exactly():
    exact()


# Neuron backends


@pytest.fixture(params=BACKENDS)
def compared(request) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Results of a backend, and those of the torch backend on the same GPU."""
    if request.param == "cupy":
        pytest.importorskip("cupy", reason="needs CuPy: pip install cupy-cuda12x, or as fits CUDA")
    return results_of(request.param), results_of("torch")


CASES = ["m", "per step"] if has_cupy_backend() else ["m", "s", "per step"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NEURONS)
def test_logits_and_gradients_are_those_of_the_torch_backend(compared, name, case):
    found, expected = (results[name, case] for results in compared)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert all(grad.any() for grad in expected["gradients"].values())


@pytest.mark.parametrize("name", NEURONS)
def test_grad_scaler_steps_every_weight(compared, name):
    found, expected = (results[name, "amp"] for results in compared)
    for result in (found, expected):
        assert result["scale"] == 2.0**10  # no step was skipped
        for weight, after in result["after"].items():
            assert after.isfinite().all(), weight
            assert not after.equal(result["before"][weight]), weight
    # Half precision moves spikes; the loss averages over them.
    assert found["loss"] == pytest.approx(expected["loss"], rel=0.1)
    full = compared[1][name, "m"]["loss"].item()
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
