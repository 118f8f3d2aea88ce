"""A wrapped model goes through what else PyTorch does with models."""

import copy
import gc
import io
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.parallel import DistributedDataParallel

from sj_shortcut import (
    ConstantSchedule,
    ShortcutLoss,
    has_shortcuts,
    remove_shortcuts,
    shortcut_branches,
    shortcut_logits,
    shortcut_parameters,
    wrap_with_shortcuts,
)
from sj_shortcut.shortcuts.forwards import Record
from tests.nets.small import (
    CLASSES,
    N,
    Net,
    T,
    gradients,
    images,
    labels,
    same,
    skip_unless_neurons_compile,
)
from tests.ranks import on_ranks

HEADS = ["layer1.1", "layer2.1"]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def train_step(model: nn.Module, x: Tensor, **options: Any) -> dict[str, Tensor | None]:
    """Gradients of one step; the weights stay."""
    model.zero_grad()
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), **options)
    criterion(model(x).mean(0), labels(x.shape[1])).backward()
    functional.reset_net(model)
    return gradients(model)


def forward(model: nn.Module, x: Tensor, step_mode: str) -> Tensor:
    output = model(x) if step_mode == "m" else torch.stack([model(step) for step in x])
    return output.mean(0)


# Copies


def through_pickle(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def through_torch_save(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


copied = pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_torch_save])


@copied
def test_a_copy_trains_as_the_original_does(copied):
    model = wrap_with_shortcuts(Net())
    train_step(model, images())
    twin = copied(model)
    x = images()
    assert same(train_step(twin, x), train_step(model, x))


@copied
def test_training_a_copy_leaves_the_original_alone(copied):
    model = wrap_with_shortcuts(Net())
    twin = copied(model)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(twin.parameters(), lr=1.0)
    criterion = ShortcutLoss(twin, nn.CrossEntropyLoss())
    criterion(twin(images()).mean(0), labels()).backward()
    optimizer.step()

    with pytest.raises(RuntimeError, match="have no logits"):
        shortcut_logits(model)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert same(model.state_dict(), before)
    assert not any(torch.equal(twin.state_dict()[name], before[name]) for name in before)


@copied
def test_a_copy_feeds_its_own_heads(copied):
    model = wrap_with_shortcuts(Net())
    twin = copied(model)
    with torch.no_grad():
        for branch in shortcut_branches(twin).values():
            branch.head.linear.weight.zero_()
            branch.head.linear.bias.fill_(7)
    twin(images())
    assert all((logits == 7).all() for logits in shortcut_logits(twin).values())


@copied
def test_a_copy_is_unwrapped_by_itself(copied):
    model = wrap_with_shortcuts(Net())
    twin = remove_shortcuts(copied(model))
    assert list(twin.state_dict()) == list(Net().state_dict())
    assert has_shortcuts(model) and not has_shortcuts(twin)


# Weights


def test_weights_load_into_another_wrapped_model():
    model, other = wrap_with_shortcuts(Net()), wrap_with_shortcuts(Net())
    other.load_state_dict(model.state_dict(), strict=True)
    x = images()
    assert same(train_step(other, x), train_step(model, x))


def test_weights_of_a_plain_model_load_but_for_the_heads():
    plain, model = Net(), wrap_with_shortcuts(Net())
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert set(missing) == set(model.state_dict()) - set(plain.state_dict())
    assert all(".shortcut_head.head.linear." in name for name in missing)


def test_weights_after_removal_load_into_a_plain_model():
    model = wrap_with_shortcuts(Net())
    train_step(model, images())
    plain = Net()
    plain.load_state_dict(remove_shortcuts(model).state_dict(), strict=True)
    x = images()
    assert torch.equal(plain(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wrap_first", [True, False])
def test_other_dtypes(dtype, wrap_first):
    model = wrap_with_shortcuts(Net()).to(dtype) if wrap_first else Net().to(dtype)
    if not wrap_first:
        wrap_with_shortcuts(model)
    grads = train_step(model, images().to(dtype))
    assert {grad.dtype for grad in grads.values()} == {dtype}
    assert all(grad.isfinite().all() and grad.abs().sum() > 0 for grad in grads.values())


def test_half_is_a_dtype_too():
    model = wrap_with_shortcuts(Net()).half()
    model(images().half())
    assert {logits.dtype for logits in shortcut_logits(model).values()} == {torch.float16}


def test_heads_in_a_parameter_group_of_their_own():
    model = wrap_with_shortcuts(Net())
    heads = list(shortcut_parameters(model))
    own = [p for p in model.parameters() if all(p is not head for head in heads)]
    assert len(heads) == 4 and len(own) == len(list(Net().parameters()))
    optimizer = torch.optim.SGD([{"params": own, "lr": 0.0}, {"params": heads, "lr": 1.0}])
    before = copy.deepcopy(model.state_dict())
    train_step(model, images())
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert changed == {name for name in before if "shortcut_head" in name}


def test_averaged_model():
    model = wrap_with_shortcuts(Net())
    average = torch.optim.swa_utils.AveragedModel(model)
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):
        train_step(model, images())
        optimizer.step()
        average.update_parameters(model)
        if average.n_averaged == 1:
            first = copy.deepcopy(model.state_dict())
    last = model.state_dict()
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value, (first[name] + last[name]) / 2)
        assert not torch.equal(value, start[name])
    x = images()
    output = average.eval()(x)
    functional.reset_net(average)
    assert torch.equal(output, remove_shortcuts(average.module)(x))


def test_functional_call_uses_the_weights_it_is_given():
    model = wrap_with_shortcuts(Net())
    given = {
        name: torch.randn_like(parameter).requires_grad_()
        for name, parameter in model.named_parameters()
    }
    other = copy.deepcopy(model)
    other.load_state_dict(given)
    x = images()
    output = torch.func.functional_call(model, given, (x,))
    ShortcutLoss(model, nn.CrossEntropyLoss())(output.mean(0), labels()).backward()
    expected = train_step(other, x)
    assert same({name: parameter.grad for name, parameter in given.items()}, expected)
    assert all(parameter.grad is None for parameter in model.parameters())


# torch.compile


@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_a_compiled_model_trains_as_an_eager_one(step_mode):
    skip_unless_neurons_compile()
    torch.compiler.reset()
    model = wrap_with_shortcuts(Net(step_mode))
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x = images()
        for run in (model, compiled):
            run.zero_grad()
            out = run(x) if step_mode == "m" else torch.stack([run(step) for step in x])
            ShortcutLoss(run, nn.CrossEntropyLoss())(out.mean(0), labels()).backward()
            functional.reset_net(run)
        for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(b.grad, a.grad, msg=name)
            assert a.grad.abs().sum() > 0
    assert torch.equal(compiled.eval()(x[0] if step_mode == "s" else x), plain_output(twin, x))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_compiled_code_is_paired_call_by_call(step_mode, per_step, backend):
    """Every step counts, whichever loss comes first, and a reset before the loss takes nothing."""
    skip_unless_neurons_compile()
    model = wrap_with_shortcuts(Net(step_mode))
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, fullgraph=True, backend=backend)
    totals, expected = [], []
    for _ in range(3):
        views = images(), images(5)
        for run, found in ((model, expected), (compiled, totals)):
            criterion = ShortcutLoss(run, nn.CrossEntropyLoss(), per_step=per_step)
            outputs = []
            for x in views:
                many = step_mode == "m"
                outputs.append(run(x) if many else torch.stack([run(step) for step in x]))
                functional.reset_net(run)
            for output in reversed(outputs):
                y = labels(output.shape[1])
                found.append(criterion(output if per_step else output.mean(0), y).detach())
                found += [criterion.parts[name] for name in HEADS]
    torch.testing.assert_close(totals, expected)
    assert len(set(map(float, totals))) == len(totals)


@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_compiled_code_is_not_compiled_anew_at_each_call(step_mode):
    skip_unless_neurons_compile()
    model = wrap_with_shortcuts(Net(step_mode))
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    counts = []
    for _ in range(4):
        x = images().repeat(3, 1, 1)
        output = compiled(x) if step_mode == "m" else sum(compiled(step) for step in x) / len(x)
        criterion(output.mean(0) if step_mode == "m" else output, labels()).backward()
        functional.reset_net(model)
        counts.append(counter.frame_count)
    assert counts[0] <= 4 and counts == counts[:1] * 4


@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_logits_of_compiled_code_can_be_read(step_mode):
    skip_unless_neurons_compile()
    model = wrap_with_shortcuts(Net(step_mode))
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        x = images()
        for run in (model, compiled):
            forward(run, x, step_mode)
        found, expected = shortcut_logits(compiled), shortcut_logits(model)
        torch.testing.assert_close(found, expected)
        assert list(found) == HEADS
        for run in (model, twin):
            functional.reset_net(run)


@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_compiled_code_keeps_no_logits_of_trainings_long_ago(step_mode):
    skip_unless_neurons_compile()
    model = wrap_with_shortcuts(Net(step_mode))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    alive = []
    for _ in range(5):
        criterion(forward(compiled, images(), step_mode), labels()).backward()
        functional.reset_net(model)
        gc.collect()
        alive.append(sum(isinstance(thing, Record) for thing in gc.get_objects()))
    assert alive[1:] == alive[1:2] * 4


def plain_output(model: nn.Module, x: Tensor) -> Tensor:
    functional.reset_net(model)
    plain = remove_shortcuts(copy.deepcopy(model)).eval()
    return plain(x[0] if plain.fc.step_mode == "s" else x)


# SyncBatchNorm


class NormNet(nn.Module):
    """A chain whose tapped stage ends in a norm, and a stage that ends in a neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(
            layer.Conv2d(1, 4, 3), neuron.LIFNode(v_threshold=0.1), layer.BatchNorm2d(4)
        )
        self.layer2 = nn.Sequential(layer.Conv2d(4, 6, 3), layer.BatchNorm2d(6), neuron.LIFNode())
        self.layer3 = nn.Sequential(layer.Conv2d(6, 6, 3, stride=2), neuron.LIFNode())
        self.fc = nn.Sequential(
            layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(6, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(x))))


@pytest.mark.parametrize("convert", ["first", "last"])
def test_synchronized_norms(convert):
    model = NormNet()
    if convert == "first":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    wrap_with_shortcuts(model, ["layer1", "layer2"])
    if convert == "last":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)

    assert sum(isinstance(module, nn.SyncBatchNorm) for module in model.modules()) == 2
    assert [branch.channels for branch in shortcut_branches(model).values()] == [4, 6]
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    x = torch.rand(T, N, 1, 12, 12)
    criterion(sum(model(step) for step in x) / T, labels()).backward()
    heads = list(shortcut_parameters(model))
    assert len(heads) == 4
    assert all(parameter.grad is not None for parameter in heads)
    assert remove_shortcuts(model) is model and not has_shortcuts(model)
    assert not any("shortcut" in name for name in model.state_dict())


# DistributedDataParallel: two processes with half of each batch against one with all of it.

RANKS, STEPS = 2, 3
LOSSES = {"coefficient 1": 1.0, "coefficient 0": 0.0, "loss without heads": None}
WAYS: dict[str, dict[str, bool]] = {
    "unused parameters not looked for": {"find_unused_parameters": False},
    "unused parameters looked for": {"find_unused_parameters": True},
    "static graph": {"static_graph": True},
}
History = list[dict[str, Tensor]]


def make_criterion(model: nn.Module, coefficient: float | None) -> Callable[..., Tensor]:
    if coefficient is None:
        return nn.CrossEntropyLoss()
    return ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(coefficient))


def train(
    model: nn.Module,
    coefficient: float | None,
    rank: int | None = None,
    accumulate: bool = False,
    step_mode: str = "m",
) -> History:
    """Weights after each step, on one rank's part of the batches or on all of them."""
    criterion = make_criterion(model, coefficient)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    torch.manual_seed(1)
    history = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        for last in (False, True) if accumulate else (True,):
            x, y = images(2 * RANKS), labels(2 * RANKS)
            if rank is not None:
                x, y = x[:, rank::RANKS], y[rank::RANKS]
            wait = nullcontext() if last or rank is None else model.no_sync()
            with wait:
                criterion(forward(model, x, step_mode), y).backward()
            functional.reset_net(model)
        optimizer.step()
        state = getattr(model, "module", model).state_dict()
        history.append({name: value.clone() for name, value in state.items()})
    return history


def seeded_net(step_mode: str = "m") -> nn.Module:
    torch.manual_seed(0)
    return wrap_with_shortcuts(Net(step_mode))


def train_one_rank(rank: int) -> dict[Any, History]:
    results = {}
    for way, options in WAYS.items():
        for name, coefficient in LOSSES.items():
            model = DistributedDataParallel(seeded_net(), **options)
            results[way, name] = train(model, coefficient, rank)
    model = DistributedDataParallel(seeded_net())
    results["no_sync"] = train(model, 1.0, rank, accumulate=True)
    for name, coefficient in LOSSES.items():
        model = DistributedDataParallel(seeded_net("s"))
        results["single steps", name] = train(model, coefficient, rank, step_mode="s")
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[Any, History]]:
    return on_ranks(train_one_rank, tmp_path_factory.mktemp("ranks"), RANKS)


def assert_agree(of_ranks: list[History], expected: History) -> None:
    for step in range(STEPS):
        assert same(of_ranks[0][step], of_ranks[1][step])
        for name, value in expected[step].items():
            torch.testing.assert_close(of_ranks[0][step][name], value, msg=name)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("way", WAYS)
def test_ranks_train_as_one_process_does(ranks, way, loss):
    of_ranks = [results[way, loss] for results in ranks]
    assert_agree(of_ranks, train(seeded_net(), LOSSES[loss]))
    before = seeded_net().state_dict()
    for name, value in of_ranks[0][-1].items():
        untrained = "shortcut_head" in name and loss != "coefficient 1"
        assert torch.equal(value, before[name]) == untrained, name


@pytest.mark.parametrize("loss", LOSSES)
def test_ranks_that_call_the_model_once_a_time_step(ranks, loss):
    expected = train(seeded_net("s"), LOSSES[loss], step_mode="s")
    assert_agree([results["single steps", loss] for results in ranks], expected)


def test_gradients_gathered_without_synchronizing(ranks):
    assert_agree(
        [results["no_sync"] for results in ranks], train(seeded_net(), 1.0, accumulate=True)
    )


# Mixed precision


def test_autocast_trains_heads_and_shallow_layers():
    model = nn.Sequential(
        layer.Linear(8, 16),
        neuron.LIFNode(v_threshold=0.2),
        layer.Linear(16, 12),
        neuron.LIFNode(v_threshold=0.2),
        layer.Linear(12, 4),
    )
    functional.set_step_mode(model, "m")
    criterion = ShortcutLoss(wrap_with_shortcuts(model, "all"), nn.CrossEntropyLoss())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(torch.rand(4, 3, 8) * 3)
        assert output.dtype == torch.bfloat16
        loss = criterion(output.mean(0), torch.tensor([0, 1, 2]))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32, name
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert model[0].weight.grad.any()


@pytest.mark.parametrize("combine", ["loss", "logits"])
@pytest.mark.parametrize("step_mode", ["m", "s"])
def test_autocast_gradients_are_those_of_a_computation_by_hand(step_mode, combine):
    model = wrap_with_shortcuts(Net(step_mode))
    twin = copy.deepcopy(model)
    branches = shortcut_branches(twin)
    remove_shortcuts(twin)
    x, y = images(), labels()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = forward(model, x, step_mode)
        ShortcutLoss(model, nn.CrossEntropyLoss(), combine=combine)(output, y).backward()

        taps: dict[str, list[Tensor]] = {name: [] for name in branches}
        for name in taps:
            collect = lambda _, args, out, name=name: taps[name].append(out)  # noqa: E731
            twin.get_submodule(name).register_forward_hook(collect)
        output = forward(twin, x, step_mode)
        features = {name: torch.cat(tap).reshape(T, N, -1) for name, tap in taps.items()}
        logits = [branches[name].head(feature.mean(0)) for name, feature in features.items()]
        if combine == "logits":
            loss = nn.functional.cross_entropy(output + sum(logits), y)
        else:
            loss = sum(nn.functional.cross_entropy(each, y) for each in (output, *logits))
    loss.backward()
    expected = dict(twin.named_parameters())
    for name, branch in branches.items():
        for key, parameter in branch.named_parameters(prefix=f"{name}.shortcut_head"):
            expected[key] = parameter
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.any()
        torch.testing.assert_close(
            parameter.grad, expected[name].grad, rtol=0.05, atol=0.01, msg=name
        )
