"""Heads computed together give what each gives by itself, with the fewest kernels."""

import collections
import copy
from functools import partial

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from sj_shortcut import (
    ConstantSchedule,
    ShortcutHead,
    ShortcutLoss,
    shortcut_branches,
    shortcut_logits,
    shortcut_parameters,
    wrap_with_shortcuts,
)
from tests.nets.small import StatelessNet, images, labels

T, N, K = 3, 4, 5
POINTS = ["2", "5", "8", "11"]


def lif() -> nn.Module:
    return neuron.LIFNode(v_threshold=0.3, surrogate_function=surrogate.ATan())


def net(mode: str = "m") -> nn.Module:
    """Four points of two widths, on maps of 8 x 8 and 4 x 4."""
    mods: list[nn.Module] = []
    channels = 2
    for width, stride in ((8, 1), (8, 1), (12, 2), (12, 1)):
        mods += [
            layer.Conv2d(channels, width, 3, stride, 1, bias=False), layer.BatchNorm2d(width), lif()
        ]  # fmt: skip
        channels = width
    model = nn.Sequential(*mods, layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(12, K))
    functional.set_step_mode(model, mode)
    return model


def wrapped(mode: str = "m", grid: int = 2, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return wrap_with_shortcuts(net(mode), POINTS, head=partial(ShortcutHead, grid=grid), **options)


def one_by_one(model: nn.Module) -> nn.Module:
    """A copy whose heads have a hook, and so run at their points."""
    twin = copy.deepcopy(model)
    for branch in shortcut_branches(twin).values():
        branch.head.register_forward_hook(lambda module, args, output: None)
    return twin


def batch() -> tuple[Tensor, Tensor]:
    x = 2 * torch.rand(T, N, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(N) % K


def run(model: nn.Module, mode: str = "m") -> Tensor:
    x, _ = batch()
    return model(x) if mode == "m" else torch.stack([model(step) for step in x])


def train(model: nn.Module, mode: str = "m", **options: object) -> dict[str, Tensor | None]:
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(0.7), **options)
    output = run(model, mode)
    criterion(output if options.get("per_step") else output.mean(0), batch()[1]).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def assert_close(a: dict[str, Tensor | None], b: dict[str, Tensor | None]) -> None:
    assert {k for k, v in a.items() if v is None} == {k for k, v in b.items() if v is None}
    some = [name for name, grad in a.items() if grad is not None]
    torch.testing.assert_close([a[k] for k in some], [b[k] for k in some], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("grid", [1, 2, 3])
@pytest.mark.parametrize("mode", ["m", "s"])
def test_gradients_are_those_of_heads_at_their_points(mode, grid, per_step):
    model = wrapped(mode, grid)
    twin = one_by_one(model)
    assert_close(train(model, mode, per_step=per_step), train(twin, mode, per_step=per_step))


def test_a_checkpoint_around_the_model_computes_them_again():
    model = wrap_with_shortcuts(StatelessNet())  # as other neurons would go on from their last step
    x, y, grads = images(), labels(), []
    for again in (False, True):
        output = checkpoint(model, x, use_reentrant=False) if again else model(x)
        ShortcutLoss(model, nn.CrossEntropyLoss())(output.mean(0), y).backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
        model.zero_grad()
    assert_close(*grads)


@pytest.mark.parametrize("combine", ["loss", "logits"])
def test_under_autocast_as_well(combine):
    results = []
    model = wrapped()
    for one in (model, one_by_one(model)):
        with torch.autocast("cpu", torch.bfloat16):
            output = run(one)
            assert all(x.dtype == torch.bfloat16 for x in shortcut_logits(one).values())
            criterion = ShortcutLoss(
                one, nn.CrossEntropyLoss(), ConstantSchedule(0.7), combine=combine
            )
            total = criterion(output.mean(0), batch()[1])
        total.backward()
        results.append([p.grad for p in shortcut_parameters(one)])
        assert all(grad.dtype == torch.float32 for grad in results[-1])
    torch.testing.assert_close(*results, rtol=0.02, atol=2e-3)


def test_a_head_by_hand_gives_the_logits_of_the_forward():
    model = wrapped()
    features: dict[str, Tensor] = {}
    for name in POINTS:
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: features.update({name: output})
        )
    run(model)
    logits = shortcut_logits(model)
    for name, branch in shortcut_branches(model).items():
        torch.testing.assert_close(branch(features[name], with_time=True), logits[name])


def test_a_head_of_weight_zero_gets_no_gradient_and_gives_no_nan():
    """Not zeros, which its NaN would meet, and by which optimizers would decay its weights."""
    model = wrapped()
    with torch.no_grad():
        shortcut_branches(model)["2"].head.linear.weight.fill_(torch.nan)
    grads = train(model, weights={"2": 0})
    without = [name for name, grad in grads.items() if grad is None]
    assert without == [name for name in grads if name.startswith("2.")]
    assert all(grad.isfinite().all() for grad in grads.values() if grad is not None)


def test_a_frozen_head_passes_gradients_on():
    model = wrapped()
    twin = one_by_one(model)
    for one in (model, twin):
        for parameter in shortcut_branches(one)["5"].parameters():
            parameter.requires_grad_(False)
    assert_close(train(model), train(twin))


def test_gradients_can_be_differentiated():
    results = []
    model = wrapped(grid=1)
    for one in (model, one_by_one(model)):
        output = run(one)
        weights = [p for p in shortcut_parameters(one) if p.ndim == 2]
        total = ShortcutLoss(one, nn.CrossEntropyLoss())(output.mean(0), batch()[1])
        grads = torch.autograd.grad(total, weights, create_graph=True)
        sum(grad.square().sum() for grad in grads).backward()
        results.append([p.grad for p in weights])
        assert all(grad.any() for grad in results[-1])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


class Counted(nn.Module):
    """A hook of the user's, put on after wrapping."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def watch(self, module: nn.Module) -> None:
        module.register_forward_hook(lambda module, args, output: self.note(output))

    def note(self, output: Tensor) -> None:
        output.register_hook(self.seen.append)


def test_a_hook_of_the_users_sees_the_gradient_of_network_and_head():
    model = wrapped()
    plain = one_by_one(model)
    seen = []
    for one in (model, plain):
        watcher = Counted()
        watcher.watch(one.get_submodule("5"))
        train(one)
        seen.append(sum(watcher.seen))
    torch.testing.assert_close(*seen)


def test_a_hook_on_a_head_runs():
    model = wrapped()
    ran: list[str] = []
    for name, branch in shortcut_branches(model).items():
        branch.head.register_forward_hook(lambda m, args, output, name=name: ran.append(name))
    run(model)
    assert ran == POINTS


# ------------------------------------------------------------------------------------------ kernels

VIEWS = frozenset(
    "view _unsafe_view transpose t permute unsqueeze squeeze expand select slice detach alias "
    "as_strided unbind split unflatten reshape lift_fresh split_with_sizes empty empty_like "
    "empty_strided new_empty new_empty_strided _local_scalar_dense".split()
)


class Kernels(TorchDispatchMode):
    """Counts the operators that compute."""

    def __init__(self) -> None:
        super().__init__()
        self.count: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        if name not in VIEWS:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


def kernels_of_a_step(model: nn.Module, criterion: nn.Module) -> int:
    x, y = batch()
    for _ in range(3):  # the third is as all to come
        with Kernels() as kernels:
            criterion(model(x).mean(0), y).backward()
        functional.reset_net(model)
        model.zero_grad()
    return kernels.count.total()


def test_heads_take_few_kernels():
    """Two a head, five a width, and twelve for all biases, all losses and the output together."""
    bare = net()
    model = wrapped()
    more = kernels_of_a_step(model, ShortcutLoss(model, nn.CrossEntropyLoss())) - kernels_of_a_step(
        bare, nn.CrossEntropyLoss()
    )
    assert more <= 2 * len(POINTS) + 5 * 2 + 12


class Products(TorchDispatchMode):
    """Counts the products that linear layers and heads are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.name in ("aten::addmm", "aten::baddbmm")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("per_step", [False, True])
def test_time_steps_of_a_loop_are_one_product(per_step):
    """A forward a step: heads of two widths are two products at the loss, whatever T is."""
    model = wrapped("s")
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), per_step=per_step)
    x, y = batch()
    model(x[0])  # looks at the axes once
    functional.reset_net(model)
    with Products() as forward:
        output = torch.stack([model(step) for step in x])
    with Products() as loss:
        criterion(output if per_step else output.mean(0), y)
    assert (forward.count, loss.count) == (T, 2)


def test_logits_asked_for_twice_are_the_same_even_after_an_update():
    model = wrapped("s")
    x, y = batch()
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    criterion(torch.stack([model(step) for step in x]).mean(0), y).backward()
    before = {name: logits.clone() for name, logits in shortcut_logits(model).items()}
    optimizer.step()
    torch.testing.assert_close(shortcut_logits(model), before, rtol=0, atol=0)


def test_logits_first_asked_for_after_an_update_are_refused():
    model = wrapped("s")
    for step in batch()[0]:
        model(step)
    with torch.no_grad():
        shortcut_branches(model)["8"].head.linear.weight.mul_(0.9)
    with pytest.raises(RuntimeError, match=r"'8' changed since the forward .*optimizer.step"):
        shortcut_logits(model)


@pytest.mark.parametrize("mode", ["m", "s"])
def test_heads_frozen_for_the_forward_learn_nothing_of_its_loss(mode):
    """As a discriminator's, which train on while another model's loss is taken."""
    model = wrapped(mode)
    x, y = batch()
    heads = list(shortcut_parameters(model))
    for p in heads:
        p.requires_grad_(False)
    output = model(x) if mode == "m" else torch.stack([model(step) for step in x])
    for p in heads:
        p.requires_grad_(True)
    ShortcutLoss(model, nn.CrossEntropyLoss())(output.mean(0), y).backward()
    assert all(p.grad is None for p in heads)
    assert model[0].weight.grad.any()


def test_autocast_leaves_float64_as_it_is():
    model = wrapped("m").double()
    with torch.autocast("cpu", torch.bfloat16):
        model(batch()[0].double())
    assert all(logits.dtype == torch.float64 for logits in shortcut_logits(model).values())


def test_logits_hang_on_the_graph_whoever_asks():
    model = wrapped("s")
    for step in batch()[0]:
        model(step)
    with torch.no_grad():
        logits = shortcut_logits(model)
    assert all(one.requires_grad for one in logits.values())
    (grad,) = torch.autograd.grad(logits["8"].sum(), model[0].weight)
    assert grad.any()


def test_heads_with_other_weights_at_each_step_are_computed_one_by_one():
    model = wrapped("s")
    x, y = batch()
    for step in x:  # statistics of batch norm, as the calls below leave them
        model(step)
    functional.reset_net(model)
    weights = dict(model.named_parameters())
    heads = {name: p for name, p in weights.items() if "shortcut_head" in name}
    for factor, step in enumerate(x, 1):
        changed = {name: p * factor for name, p in heads.items()}
        torch.func.functional_call(model, {**weights, **changed}, (step,))
    found = shortcut_logits(model)
    functional.reset_net(model)
    due, before = dict.fromkeys(POINTS, 0.0), dict.fromkeys(POINTS, 0.0)
    for factor, step in enumerate(x, 1):
        model(step)
        for name, mean in shortcut_logits(model).items():  # of all steps so far
            due[name] = due[name] + factor * (factor * mean - before[name]) / T
            before[name] = factor * mean
    torch.testing.assert_close(found, due, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("point", POINTS)
def test_a_backward_pass_of_any_one_head_ends_the_sequence(point):
    model = wrapped("s")
    x, y = batch()
    for _ in range(2):
        for step in x:
            model(step)
        logits = shortcut_logits(model)
        assert logits[point].grad_fn is not None
        nn.functional.cross_entropy(logits[point], y).backward()
        for module in model.modules():  # a reset of neurons alone does not tell the heads
            if isinstance(module, neuron.BaseNode):
                module.reset()
