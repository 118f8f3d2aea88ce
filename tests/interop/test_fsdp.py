"""FSDP2 (`fully_shard`) on two processes, each with half of a batch, against one with all of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from spikingjelly.activation_based import functional
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from sj_shortcut import (
    ConstantSchedule,
    ShortcutLogger,
    ShortcutLoss,
    remove_shortcuts,
    shortcut_branches,
    wrap_with_shortcuts,
)
from tests.nets.small import Net, images, labels, same
from tests.ranks import NO_FSDP2, on_ranks

pytestmark = pytest.mark.skipif(bool(NO_FSDP2), reason=NO_FSDP2)

RANKS, STEPS = 2, 3
BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
# Which parts are sharded, in order; the whole model is always last.
LAYOUTS: dict[str, dict[str, Any]] = {
    "whole model": {"parts": []},
    "whole model, resharded": {"parts": [], "root": {"reshard_after_forward": True}},
    "heads, then stages": {"parts": ["heads", "stages"]},
    "stages without resharding": {"parts": ["stages"], "options": {"reshard_after_forward": False}},
    "step mode s": {"parts": ["heads", "stages"], "step_mode": "s"},
    "coefficient 0": {"parts": ["heads", "stages"], "coefficient": 0.0},
    "loss without heads": {"parts": ["heads", "stages"], "coefficient": None},
}


def wrapped_net(step_mode: str = "m") -> nn.Module:
    torch.manual_seed(0)
    return wrap_with_shortcuts(Net(step_mode))


def shard(model: nn.Module, parts: list[str], mesh: Any, **options: Any) -> None:
    groups = {
        "heads": list(shortcut_branches(model).values()),
        "stages": [model.layer1, model.layer2, model.layer3],
    }
    for part in parts:
        for module in groups[part]:
            fully_shard(module, mesh=mesh, **options)


def make_criterion(model: nn.Module, coefficient: float | None) -> Callable[..., Tensor]:
    if coefficient is None:
        return nn.CrossEntropyLoss()
    return ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(coefficient))


def train(
    model: nn.Module, coefficient: float | None, step_mode: str, rank: int | None = None
) -> None:
    criterion = make_criterion(model, coefficient)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    torch.manual_seed(1)
    for _ in range(STEPS):
        x, y = images(2 * RANKS), labels(2 * RANKS)
        if rank is not None:
            x, y = x[:, rank::RANKS], y[rank::RANKS]
        output = model(x) if step_mode == "m" else torch.stack([model(step) for step in x])
        optimizer.zero_grad()
        criterion(output.mean(0), y).backward()
        functional.reset_net(model)
        optimizer.step()


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def train_layout(
    mesh: Any,
    rank: int,
    parts: list[str],
    step_mode: str = "m",
    coefficient: float | None = 1.0,
    options: dict[str, Any] | None = None,
    root: dict[str, Any] | None = None,
) -> dict[str, Any]:
    model = wrapped_net(step_mode)
    shard(model, parts, mesh, **(options or {}))
    fully_shard(model, mesh=mesh, **(root or {}))
    train(model, coefficient, step_mode, rank)
    trained = whole_state(model)
    remove_shortcuts(model)
    removed = whole_state(model)
    train(model, None, step_mode, rank)
    return {"trained": trained, "removed": removed, "after": whole_state(model)}


def bf16_gradients(mesh: Any) -> dict[str, bool]:
    model = wrapped_net()
    shard(model, ["heads", "stages"], mesh, mp_policy=BF16)
    fully_shard(model, mesh=mesh, mp_policy=BF16)
    ShortcutLoss(model, nn.CrossEntropyLoss())(model(images()).mean(0), labels()).backward()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    grads = {name: parameter.grad.full_tensor() for name, parameter in model.named_parameters()}
    return {name: bool(grad.isfinite().all() and grad.any()) for name, grad in grads.items()}


def logged(mesh: Any, layers: bool) -> list[str]:
    model, found = wrapped_net(), list[str]()
    shard(model, ["heads", "stages"], mesh)
    fully_shard(model, mesh=mesh)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    write = lambda values, step: found.extend(f"{step} {name}" for name in values)  # noqa: E731
    with ShortcutLogger(model, criterion, write, every=2, layers=layers) as logger:
        for _ in range(3):
            criterion(model(images()).mean(0), labels()).backward()
            functional.reset_net(model)
            logger.step()
    return found


def train_with_heads_in_their_stage(mesh: Any) -> None:
    model = wrapped_net()
    shard(model, ["stages"], mesh)
    fully_shard(model, mesh=mesh)
    train(model, 1.0, "m")


def wrap_sharded(mesh: Any, inside: bool) -> None:
    model = Net()
    fully_shard(model.layer2 if inside else model, mesh=mesh)
    wrap_with_shortcuts(model)


def one_rank(rank: int) -> dict[str, Any]:
    mesh = dist.device_mesh.init_device_mesh("cpu", (RANKS,))
    results: dict[str, Any] = {
        name: train_layout(mesh, rank, **layout) for name, layout in LAYOUTS.items()
    }
    results["bf16"] = bf16_gradients(mesh)
    results["logged"] = logged(mesh, layers=False)
    results["logged layers"] = error_of(lambda: logged(mesh, layers=True))
    results["heads in their stage"] = error_of(lambda: train_with_heads_in_their_stage(mesh))
    results["wrapped last"] = error_of(lambda: wrap_sharded(mesh, inside=False))
    results["wrapped around"] = error_of(lambda: wrap_sharded(mesh, inside=True))
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Any]]:
    return on_ranks(one_rank, tmp_path_factory.mktemp("ranks"), RANKS)


def assert_close(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, msg=name)


@pytest.mark.parametrize("name", LAYOUTS)
def test_sharded_training_is_that_of_one_process(ranks, name):
    layout = LAYOUTS[name]
    step_mode, coefficient = layout.get("step_mode", "m"), layout.get("coefficient", 1.0)
    model = wrapped_net(step_mode)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    train(model, coefficient, step_mode)
    states = [results[name] for results in ranks]

    assert_close(states[0]["trained"], model.state_dict())
    assert same(states[0]["trained"], states[1]["trained"])
    untrained = {key for key, value in states[0]["trained"].items() if value.equal(start[key])}
    heads = {key for key in start if "shortcut_head" in key}
    assert untrained == (set() if coefficient else heads)


@pytest.mark.parametrize("name", LAYOUTS)
def test_heads_leave_a_sharded_model_which_trains_on(ranks, name):
    step_mode = LAYOUTS[name].get("step_mode", "m")
    of_rank = ranks[0][name]
    plain = Net(step_mode)
    assert list(of_rank["removed"]) == list(plain.state_dict())
    plain.load_state_dict(of_rank["removed"], strict=True)
    train(plain, None, step_mode)
    assert_close(of_rank["after"], plain.state_dict())


def test_bf16_policy_gives_every_parameter_a_gradient(ranks):
    assert ranks[0]["bf16"] == dict.fromkeys(wrapped_net().state_dict(), True)


def test_a_logger_writes_all_but_numbers_of_layers(ranks):
    heads = ("layer1.1", "layer2.1")
    names = [f"loss/{name}" for name in ("total", "main", *heads)] + [f"lambda/{n}" for n in heads]
    assert ranks[0]["logged"] == [f"{step} {name}" for step in (0, 2) for name in names]
    assert ranks[1]["logged"] == []
    assert (
        ranks[0]["logged layers"].startswith("TypeError")
        and "sharded" in (ranks[0]["logged layers"])
    )


def test_a_head_sharded_with_its_stage_is_an_error_that_says_what_to_do(ranks):
    for results in ranks:
        assert results["heads in their stage"] == (
            "RuntimeError: the weights of the shortcut head at 'layer1.1' are sharded together "
            "with a module around it, which gave them back after its forward pass, before the "
            "head's backward pass. Shard every head by itself first: for branch in "
            "shortcut_branches(model).values(): fully_shard(branch)."
        )


def test_wrapping_a_sharded_model_is_an_error(ranks):
    for results in ranks:
        assert results["wrapped last"] == (
            "TypeError: FSDPNet cannot be wrapped: it is sharded by FSDP already, and the heads "
            "would not be. Call wrap_with_shortcuts first, then shard."
        )
        assert results["wrapped around"] == (
            "TypeError: Net cannot be wrapped: its submodule 'layer2' is sharded by FSDP already, "
            "and the heads would not be. Call wrap_with_shortcuts first, then shard."
        )
