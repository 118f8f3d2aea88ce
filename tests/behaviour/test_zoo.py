"""Wrap, train and remove, over every model of the zoo, against the same done by hand."""

import pickle
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import base, functional, layer, neuron, surrogate
from torch import Tensor, nn
from torch.testing import assert_close

from sj_shortcut import (
    ConstantSchedule,
    EvolutionarySchedule,
    ShortcutLoss,
    remove_shortcuts,
    shortcut_branches,
    shortcut_logits,
    shortcut_parameters,
    shortcuts_enabled,
    wrap_with_shortcuts,
)
from sj_shortcut.shortcuts.hooks import forwards_of
from sj_shortcut.shortcuts.pairing import gathered
from tests.nets.zoo import EVERY, LIVELY, ZOO, Specimen, ann_layers, features, lif

EPOCHS = 3
every_model = pytest.mark.parametrize(("name", "mode"), EVERY)
# The 34 layers show nothing but in training that the 18 do not, at twice the time.
every_kind = pytest.mark.parametrize(
    ("name", "mode"), [(name, mode) for name, mode in EVERY if name != "spiking_resnet34"]
)
both_examples = pytest.mark.parametrize("with_example", [False, True], ids=["", "example"])
IN_BOTH_MODES = [n for n, s in ZOO.items() if s.modes == "ms" and n != "spiking_resnet34"]
WITHOUT_BATCH_NORM = ["conv_net", "features", "pre_activation", "spiking_output"]


def sgd(parameters: Iterator[nn.Parameter]) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4)


def train(
    specimen: Specimen,
    model: nn.Module,
    mode: str,
    optimizer: torch.optim.SGD,
    loss_of: Callable[[Tensor, int], Tensor],
    check: Callable[[], None],
) -> None:
    """The loop of a user, one batch an epoch; the seed is for dropout."""
    torch.manual_seed(7)
    for epoch in range(EPOCHS):
        loss = loss_of(specimen.logits(model, specimen.sequence(epoch), mode), epoch)
        optimizer.zero_grad()
        loss.backward()
        check()
        optimizer.step()
        functional.reset_net(model)


def evaluate(specimen: Specimen, model: nn.Module, mode: str) -> Tensor:
    model.eval()
    with torch.no_grad():
        output = specimen.outputs(model, specimen.sequence(9), mode)
    functional.reset_net(model)
    return output


def quiet_noise(model: nn.Module) -> nn.Module:
    """Training mode, but for what makes one batch depend on chance or on its other samples."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | layer.Dropout):
            module.eval()
    return model


def has_gradient(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.isfinite().all())


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same_tensors(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert list(left) == list(right)
    differing = [name for name in left if not torch.equal(left[name], right[name])]
    assert not differing


def assert_close_tensors(left: dict[str, Tensor], right: dict[str, Tensor], **to: float) -> None:
    assert list(left) == list(right)
    for name in left:
        torch.testing.assert_close(left[name], right[name], msg=lambda m, n=name: f"{n}: {m}", **to)


class HandmadeHead:
    """A shortcut head of the method's definition, on a plain hook, sharing no code with ours."""

    def __init__(self, model: nn.Module, name: str, linear: nn.Linear, mode: str) -> None:
        parents = (name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1))
        looped = any(isinstance(model.get_submodule(p), layer.MultiStepContainer) for p in parents)
        self.linear = linear
        self.all_steps_at_once = mode == "m" and not looped
        self.calls: list[Tensor] = []
        model.get_submodule(name).register_forward_hook(self)

    def __call__(self, module: nn.Module, args: Any, x: Tensor) -> None:
        # Sums over time, rows and columns, before the quotient: an order of additions that differs
        # would differ in the last bit, and a spike at the threshold turn that into 1.
        batch_axes = 1 + self.all_steps_at_once
        space = x.shape[batch_axes + 1 :]
        if len(space) == 2 and not any(size % 2 for size in space):
            total, steps = (x.sum(0), len(x)) if self.all_steps_at_once else (x, 1)
            height, width = (size // 2 for size in space)
            total = total.reshape(*total.shape[:2], 2, height, 2, width).sum(3).sum(4)
            features = (total / (steps * height * width)).flatten(1)
        else:
            parts = x.flatten(0, batch_axes - 1)
            if len(space) == 2:
                parts = F.adaptive_avg_pool2d(parts, 2)
            elif space:
                parts = F.adaptive_avg_pool1d(parts, 4)
            parts = parts.reshape(*x.shape[:batch_axes], -1)
            features = parts.sum(0) / len(x) if self.all_steps_at_once else parts
        self.calls.append(self.linear(features))

    def take_logits(self) -> Tensor:
        logits = sum(self.calls[1:], self.calls[0]) / len(self.calls)
        self.calls.clear()
        return logits


def copy_of(linear: nn.Linear) -> nn.Linear:
    made = nn.Linear(linear.in_features, linear.out_features)
    made.load_state_dict(linear.state_dict())
    return made


def train_by_hand(
    specimen: Specimen, model: nn.Module, mode: str, linears: dict[str, nn.Linear]
) -> None:
    heads = [HandmadeHead(model, name, linear, mode) for name, linear in linears.items()]
    parameters = [*model.parameters(), *(p for head in heads for p in head.linear.parameters())]

    def loss_of(logits: Tensor, epoch: int) -> Tensor:
        total = F.cross_entropy(logits, specimen.target())
        for head in heads:
            term = F.cross_entropy(head.take_logits(), specimen.target())
            total = total + (1 - epoch / EPOCHS) * term
        return total

    train(specimen, model, mode, sgd(parameters), loss_of, check=lambda: None)


@pytest.fixture
def _in_double_precision() -> Iterator[None]:
    """Heads are computed together, and their losses: the same sums, in another order."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def made_in_double(specimen: Specimen, mode: str) -> nn.Module:
    """With the weights that it has in single precision, where all of them are lively."""
    torch.set_default_dtype(torch.float32)
    model = specimen.make(mode).double()
    torch.set_default_dtype(torch.float64)
    return model


@pytest.mark.usefixtures("_in_double_precision")
@every_model
def test_trains_as_by_hand_and_comes_back(name, mode):
    specimen = ZOO[name]
    model, twin = made_in_double(specimen, mode), made_in_double(specimen, mode)
    first_weight = next(p for p in model.parameters() if p.ndim > 1)
    kind, keys = type(model), list(model.state_dict())

    assert wrap_with_shortcuts(model, grid=2) is model
    heads = {name: branch.head for name, branch in shortcut_branches(model).items()}
    linears = {name: copy_of(head.linear) for name, head in heads.items()}
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), EvolutionarySchedule(EPOCHS, start=1))

    def loss_of(logits, epoch):
        assert criterion.schedule.last_epoch == epoch
        loss = criterion(logits, specimen.target())
        criterion.schedule.step()
        return loss

    def every_head_learns():
        assert all(has_gradient(p) for p in shortcut_parameters(model))
        assert has_gradient(first_weight)
        assert first_weight.grad.any()

    train(specimen, model, mode, sgd(model.parameters()), loss_of, every_head_learns)
    train_by_hand(specimen, twin, mode, linears)
    assert remove_shortcuts(model) is model

    for name, head in heads.items():
        assert_close(head.linear.weight, linears[name].weight)
        assert_close(head.linear.bias, linears[name].bias)
    assert (type(model), list(model.state_dict())) == (kind, keys)
    assert repr(model) == repr(twin)
    assert_close(model.state_dict(), twin.state_dict())
    assert_close(evaluate(specimen, model, mode), evaluate(specimen, twin, mode))


@pytest.mark.parametrize("name", [name for name in ZOO if name != "psn"])
def test_zoo_spikes(name):
    """Silent layers would make most other tests hold trivially."""
    specimen = ZOO[name]
    mode = specimen.modes[0]
    model = wrap_with_shortcuts(specimen.make(mode))
    logits = specimen.logits(model, specimen.sequence(), mode)
    ShortcutLoss(model, nn.CrossEntropyLoss())(logits, specimen.target()).backward()
    assert all(p.grad.any() for p in shortcut_parameters(model))


@both_examples
@every_kind
def test_removing_leaves_the_bytes_of_a_model_never_wrapped(name, mode, with_example):
    specimen = ZOO[name]
    model = specimen.make(mode)
    before = pickle.dumps(model)
    wrap_with_shortcuts(model, example_input=specimen.example(mode) if with_example else None)
    assert pickle.dumps(model) != before
    # In two lines: pytest would take minutes to show how megabytes of pickle differ.
    same = pickle.dumps(remove_shortcuts(model)) == before
    assert same


def random_state() -> list[bytes]:
    return [
        torch.get_rng_state().numpy().tobytes(),
        pickle.dumps(np.random.get_state()),
        pickle.dumps(random.getstate()),
    ]


def state_of(model: nn.Module) -> dict[str, Any]:
    """What the wrapping of a model must not change, in builtins and tensors of its own."""
    return {
        "tensors": {name: value.clone() for name, value in model.state_dict().items()},
        "identities": [(name, id(p)) for name, p in model.named_parameters()],
        "kinds": [
            (name, p.dtype, p.device, p.requires_grad) for name, p in model.named_parameters()
        ],
        "training": [(name, module.training) for name, module in model.named_modules()],
        "memories": {
            f"{name}.{key}": value.clone() if isinstance(value, Tensor) else torch.tensor(value)
            for name, module in model.named_modules()
            if isinstance(module, base.MemoryModule)
            for key, value in module._memories.items()
            if value is not None
        },
    }


def without_heads(items: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [item for item in items if "shortcut_head" not in item[0]]


def used_model(specimen: Specimen, mode: str) -> nn.Module:
    """With memories of a forward pass, mixed training flags and frozen layers."""
    model = specimen.make(mode)
    with torch.no_grad():
        specimen.outputs(model.eval(), specimen.sequence(), mode)
    for i, module in enumerate(model.modules()):
        module.training = i % 3 != 0
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad = i % 2 == 0
    return model


@both_examples
@every_kind
def test_wrapping_changes_nothing_else(name, mode, with_example):
    specimen = ZOO[name]
    model = used_model(specimen, mode)
    before, rng = state_of(model), random_state()
    wrap_with_shortcuts(model, example_input=specimen.example(mode) if with_example else None)
    after = state_of(model)
    assert random_state() == rng
    for part in ("tensors", "memories"):
        own = {key: value for key, value in after[part].items() if "shortcut_head" not in key}
        assert_same_tensors(own, before[part])
    for part in ("identities", "kinds", "training"):
        assert without_heads(after[part]) == before[part]


class Counter(nn.Module):
    """Writes to a buffer in eval mode too, as modules that calibrate themselves do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


def test_an_example_leaves_no_trace_in_buffers():
    model = nn.Sequential(layer.Linear(4, 8), lif(), Counter(), layer.Linear(8, 6), lif(),
                          layer.Linear(6, 2))  # fmt: skip
    wrap_with_shortcuts(model, example_input=torch.rand(3, 4))
    assert model[2].calls == 0


def test_one_sample_is_example_enough_for_batch_norm():
    """In training mode BatchNorm refuses a batch of one value a channel."""
    model = nn.Sequential(layer.Linear(4, 8), layer.BatchNorm1d(8), lif(), layer.Linear(8, 6),
                          lif(), layer.Linear(6, 2))  # fmt: skip
    wrap_with_shortcuts(model, example_input=torch.rand(1, 4))
    assert model.training


@every_kind
def test_heads_take_the_training_mode_of_their_point(name, mode):
    model = used_model(ZOO[name], mode)
    for branch in shortcut_branches(wrap_with_shortcuts(model, at="all")).values():
        flags = {module.training for module in branch.modules()}
        assert flags == {model.get_submodule(branch.name).training}


@every_kind
def test_outputs_are_those_of_the_bare_model(name, mode):
    specimen = ZOO[name]
    bare, wrapped = specimen.make(mode), wrap_with_shortcuts(specimen.make(mode))
    outputs = []
    for model in (bare, wrapped):
        torch.manual_seed(3)  # for dropout
        model.train()
        training = specimen.outputs(model, specimen.sequence(), mode).detach()
        functional.reset_net(model)
        outputs.append((training, evaluate(specimen, model, mode)))
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert torch.equal(outputs[0][1], outputs[1][1])


def run_once(
    specimen: Specimen, mode: str, dtype: torch.dtype, **options: Any
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Logits, head logits and gradients of one step."""
    model = quiet_noise(wrap_with_shortcuts(specimen.make(mode).to(dtype)))
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), **options)
    outputs = specimen.outputs(model, specimen.sequence().to(dtype), mode)
    logits = outputs if options.get("per_step") else outputs.mean(0)
    heads = shortcut_logits(model)
    criterion(logits, specimen.target()).backward()
    return outputs.detach(), {k: v.detach() for k, v in heads.items()}, gradients(model)


def assert_modes_agree(
    specimen: Specimen, dtype: torch.dtype, tolerance: float, **options: Any
) -> None:
    logits_m, heads_m, gradients_m = run_once(specimen, "m", dtype, **options)
    logits_s, heads_s, gradients_s = run_once(specimen, "s", dtype, **options)
    to = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(logits_m, logits_s, **to)
    assert_close_tensors(heads_m, heads_s, **to)
    assert_close_tensors(gradients_m, gradients_s, **to)
    assert any("shortcut_head" in name for name in gradients_m)


@pytest.mark.parametrize("combine", ["loss", "logits"])
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("name", WITHOUT_BATCH_NORM)
def test_step_modes_agree_to_float32_rounding(name, per_step, combine):
    assert_modes_agree(ZOO[name], torch.float32, 1e-5, per_step=per_step, combine=combine)


@pytest.mark.parametrize("name", IN_BOTH_MODES)
def test_step_modes_agree_all_over_the_zoo(name):
    """In double precision: in deep nets float32 rounding moves membranes across the threshold."""
    assert_modes_agree(ZOO[name], torch.float64, 1e-9)


# ------------------------------------------------------------------ which points, and the same way


def step_of(model: nn.Module, specimen: Specimen, mode: str = "m") -> dict[str, Tensor]:
    """Gradients of one step, those of the heads by their parameter's place among the heads."""
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss())
    criterion(specimen.logits(model, specimen.sequence(), mode), specimen.target()).backward()
    own = {k: v for k, v in gradients(model).items() if "shortcut_head" not in k}
    heads = {f"head {i}": p.grad for i, p in enumerate(shortcut_parameters(model))}
    return own | heads


@pytest.mark.parametrize("mode", ["m", "s"])
def test_tapping_a_chain_is_tapping_its_last_block(mode):
    specimen = ZOO["sew_resnet18"]
    chains = wrap_with_shortcuts(specimen.make(mode), at=["layer1", "layer2"])
    blocks = wrap_with_shortcuts(specimen.make(mode), at=["layer1.1", "layer2.1"])
    assert list(shortcut_branches(chains)) == ["layer1", "layer2"]
    assert_same_tensors(step_of(chains, specimen, mode), step_of(blocks, specimen, mode))
    before = specimen.make(mode)
    assert repr(remove_shortcuts(chains)) == repr(before)
    assert [len(chains.layer1), len(chains.layer2)] == [2, 2]


def test_tapping_a_container_is_tapping_the_neuron_at_its_end():
    """The container hands over all steps at once, the neuron in it one step a call."""
    specimen = ZOO["multi_step"]
    container = wrap_with_shortcuts(specimen.make("m"), at=["0", "1"])
    inside = wrap_with_shortcuts(specimen.make("m"), at=["0.2", "1.2"])
    ours, theirs = step_of(container, specimen), step_of(inside, specimen)
    # Averaged before or after the linear layer: equal but for rounding.
    assert_close_tensors(ours, theirs, rtol=1e-4, atol=1e-6)
    assert len(remove_shortcuts(container)[0]) == len(remove_shortcuts(inside)[0]) == 3


@pytest.mark.parametrize("per_step", [False, True])
def test_a_tap_called_by_its_container_forgets_the_batch_before(per_step):
    specimen = ZOO["multi_step"]
    model = wrap_with_shortcuts(specimen.make("m"), at="1.2")
    ShortcutLoss(model, nn.CrossEntropyLoss(), per_step=per_step)
    fresh = []
    for seed in (1, 2, 1):
        model(specimen.sequence(seed))
        records = forwards_of(model).records
        fresh.append(gathered(records, ["1.2"], per_step=per_step)["1.2"].detach())
        functional.reset_net(model)
    assert fresh[0].shape == ((2, 2, 10) if per_step else (2, 10))
    torch.testing.assert_close(fresh[0], fresh[2])
    assert not torch.equal(fresh[0], fresh[1])


class Spike(nn.Module):
    """A user's neuron without memory, which may sit where time and batch share one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.surrogate = surrogate.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.surrogate(x - 0.1)


def folded_net() -> nn.Sequential:
    return nn.Sequential(
        ann_layers(nn.Linear(12, 16), Spike()),
        ann_layers(nn.Linear(16, 8), Spike()),
        ann_layers(nn.Linear(8, 10)),
    )


def test_a_folding_container_is_tapped_as_a_whole():
    torch.manual_seed(0)
    model = wrap_with_shortcuts(folded_net(), at="0", neuron_types=(Spike,))
    x = torch.rand(3, 2, 12)
    feature = model[0][1](model[0][0](x)).mean(0)
    model(x)
    logits = shortcut_logits(model)["0"]
    torch.testing.assert_close(logits, shortcut_branches(model)["0"].head(feature))


@pytest.mark.parametrize(
    ("at", "names"),
    [
        ("stages", ["0.1.2"]),
        ("all", ["0.0.2", "0.1.2", "1.0.2"]),
        (2, ["0.0.2", "1.0.2"]),
        ("0.0.2", ["0.0.2"]),
        (["1.0.2", "0.0.2"], ["0.0.2", "1.0.2"]),
        ("0.*.2", ["0.0.2", "0.1.2"]),
        ("**.2", ["0.0.2", "0.1.2", "1.0.2", "1.1.0.2"]),
        ("[!1].[01]", ["0.0", "0.1"]),
        (lambda name, module: isinstance(module, neuron.LIFNode) and name[0] == "1",
         ["1.0.2", "1.1.0.2"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["m", "s"])
def test_every_way_to_choose_points_trains(at, names, mode):
    specimen = ZOO["nested"]
    model = wrap_with_shortcuts(specimen.make(mode), at=at)
    assert list(shortcut_branches(model)) == names
    step_of(model, specimen, mode)
    assert all(has_gradient(p) and p.grad.any() for p in shortcut_parameters(model))
    assert repr(remove_shortcuts(model)) == repr(specimen.make(mode))


# ----------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["conv_net", "nested", "features", "sound", "own_shortcut"])
@pytest.mark.parametrize("mode", ["m", "s"])
def test_heads_follow_the_dtype_of_the_model(name, mode, dtype):
    specimen = ZOO[name]
    model = wrap_with_shortcuts(specimen.make(mode).to(dtype))
    assert {p.dtype for p in shortcut_parameters(model)} == {dtype}
    logits = specimen.logits(model, specimen.sequence().to(dtype), mode)
    assert {logits.dtype for logits in shortcut_logits(model).values()} == {dtype}
    loss = ShortcutLoss(model, nn.CrossEntropyLoss())(logits, specimen.target())
    assert loss.dtype == dtype
    loss.backward()
    assert all(has_gradient(p) for p in model.parameters())


def test_heads_follow_a_change_of_dtype_after_wrapping():
    specimen = ZOO["features"]
    model = wrap_with_shortcuts(specimen.make("m")).double()
    model(specimen.sequence().double())
    assert {logits.dtype for logits in shortcut_logits(model).values()} == {torch.float64}


class Cast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double()


def test_a_head_follows_its_own_part_of_a_model_of_two_dtypes():
    model = nn.Sequential(
        nn.Sequential(layer.Linear(4, 8), lif()),
        Cast(),
        nn.Sequential(layer.Linear(8, 6), lif(), layer.Linear(6, 5), lif()).double(),
        layer.Linear(5, 2).double(),
    )
    wrap_with_shortcuts(model, at=["0.1", "2.1"])
    model(torch.rand(3, 4))
    kinds = {name: logits.dtype for name, logits in shortcut_logits(model).items()}
    assert kinds == {"0.1": torch.float32, "2.1": torch.float64}


def test_a_head_sits_on_the_device_of_its_own_part():
    """Neurons all share one default surrogate function, which must not lead back to the first."""
    model = nn.Sequential(
        nn.Sequential(layer.Linear(4, 8), lif()),
        nn.Sequential(layer.Linear(8, 6), lif(), layer.Linear(6, 2)).to("meta"),
    )
    wrap_with_shortcuts(model, at=["0.1", "1.1"])
    devices = [
        branch.head.linear.weight.device.type for branch in shortcut_branches(model).values()
    ]
    assert devices == ["cpu", "meta"]


# ----------------------------------------------------------------------- the loss, from its formula


def spikes_by_hand(drive: Tensor) -> Tensor:
    """LIF, tau 2, hard reset to 0 that gradients do not pass: [T, N, C] to [T, N, C]."""
    spike_function = surrogate.Sigmoid(alpha=4.0)
    potential = torch.zeros_like(drive[0])
    spikes = []
    for current in drive:
        potential = potential + (current - potential) / 2
        spikes.append(spike_function(potential - LIVELY["v_threshold"]))
        potential = potential * (1 - spikes[-1].detach())
    return torch.stack(spikes)


def forward_by_hand(
    own: list[Tensor], heads: list[Tensor], x: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Logits [T, N, K] of `features` and of heads on its first two neurons."""
    first = spikes_by_hand(F.linear(x, own[0], own[1]))
    second = spikes_by_hand(F.linear(first, own[2], own[3]))
    third = spikes_by_hand(F.linear(second, own[4], own[5]))
    logits = [F.linear(first, heads[0], heads[1]), F.linear(second, heads[2], heads[3])]
    return F.linear(third, own[6], own[7]), logits


def total_by_hand(
    main: Tensor,
    heads: list[Tensor],
    loss: Callable[[Tensor], Tensor],
    weights: list[float],
    combine: str,
    per_step: bool,
) -> Tensor:
    """The formula of the method; what is not per step is averaged over time first."""
    if not per_step:
        main, heads = main.mean(0, keepdim=True), [head.mean(0, keepdim=True) for head in heads]
    if combine == "logits":
        main = main + sum(w * head for w, head in zip(weights, heads, strict=True))
        heads = []
    mean = torch.stack([loss(step) for step in main]).mean()
    for weight, head in zip(weights, heads, strict=False):
        mean = mean + weight * torch.stack([loss(step) for step in head]).mean()
    return mean


CRITERIA = {
    "cross entropy": lambda logits, y: F.cross_entropy(logits, y),
    "label smoothing": lambda logits, y: F.cross_entropy(logits, y, label_smoothing=0.1),
    "mse": lambda logits, y: F.mse_loss(logits, F.one_hot(y, 10).to(logits.dtype)),
}


@pytest.mark.parametrize("combine", ["loss", "logits"])
@pytest.mark.parametrize("per_step", [False, True])
@settings(max_examples=15)
@given(
    mode=st.sampled_from("ms"),
    steps=st.integers(1, 4),
    batch=st.integers(1, 3),
    coefficient=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    weights=st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=2, max_size=2),
    named=st.booleans(),
    criterion=st.sampled_from(sorted(CRITERIA)),
    seed=st.integers(0, 1000),
)
def test_gradients_are_those_of_the_formula(
    combine, per_step, mode, steps, batch, coefficient, weights, named, criterion, seed
):
    torch.manual_seed(seed)
    model = features().double()
    functional.set_step_mode(model, mode)
    wrap_with_shortcuts(model, at=["1", "3"])
    x = 2 * torch.rand(steps, batch, 12, dtype=torch.float64)
    y = torch.randint(10, (batch,))
    heads = list(shortcut_parameters(model))
    own = [p for name, p in model.named_parameters() if "shortcut_head" not in name]

    main, logits = forward_by_hand(own, heads, x)
    effective = [coefficient * weight for weight in weights]
    due = total_by_hand(
        main, logits, lambda o: CRITERIA[criterion](o, y), effective, combine, per_step
    )
    due_gradients = torch.autograd.grad(due, [*own, *heads], materialize_grads=True)

    shortcut_loss = ShortcutLoss(
        model,
        CRITERIA[criterion],
        ConstantSchedule(coefficient),
        combine=combine,
        per_step=per_step,
        weights=dict(zip(["1", "3"], weights, strict=True)) if named else weights,
    )
    output = model(x) if mode == "m" else torch.stack([model(step) for step in x])
    loss = shortcut_loss(output if per_step else output.mean(0), y)
    loss.backward()

    torch.testing.assert_close(loss, due)
    torch.testing.assert_close(shortcut_loss.parts["total"], due.detach())
    for parameter, gradient in zip([*own, *heads], due_gradients, strict=True):
        got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(got, gradient)


# ---------------------------------------------------------------------------------- shared modules


class CallsTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand = layer.Linear(12, 8)
        self.spike = lif()
        self.mix = layer.Linear(8, 8)
        self.head = layer.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.spike(self.mix(self.spike(self.expand(x)))))


class CallsTwiceUnlessAlone(CallsTwice):
    """Takes no batch that could be made up: a dict."""

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return super().forward(x["features"])


@pytest.mark.parametrize("mode", ["m", "s"])
def test_a_module_called_twice_is_refused_by_the_first_forward(mode):
    model = CallsTwiceUnlessAlone()
    functional.set_step_mode(model, mode)
    wrap_with_shortcuts(model, at="spike")
    with pytest.raises(RuntimeError, match="'spike' was called 2 times in one forward"):
        model({"features": torch.rand(2, 3, 12)[0 if mode == "s" else slice(None)]})


def test_an_example_shows_at_once_that_a_module_is_called_twice():
    model = CallsTwice()
    with pytest.raises(ValueError, match="'spike'.*called 2 times in one forward"):
        wrap_with_shortcuts(model, at="spike", example_input=torch.rand(3, 12))
    assert repr(model) == repr(CallsTwice())


def test_a_module_under_two_names_is_refused_when_wrapping():
    shared = nn.Sequential(layer.Linear(8, 8), lif())
    model = nn.Sequential(layer.Linear(12, 8), lif(), shared, shared, layer.Linear(8, 10))
    before = repr(model)
    with pytest.raises(ValueError, match="'2.1'.*called 2 times in one forward, where '1' is"):
        wrap_with_shortcuts(model, at="2.1")
    assert repr(model) == before
    assert list(shortcut_branches(wrap_with_shortcuts(model, at="all"))) == ["1"]


# ------------------------------------------------------------------------------ reading and results


@every_kind
def test_heads_can_be_read_in_eval_mode_everywhere(name, mode):
    specimen = ZOO[name]
    model = wrap_with_shortcuts(specimen.make(mode)).eval()
    bare = evaluate(specimen, specimen.make(mode), mode)
    with torch.no_grad(), shortcuts_enabled(model):
        output = specimen.outputs(model, specimen.sequence(9), mode)
        shapes = {tuple(logits.shape) for logits in shortcut_logits(model).values()}
    assert torch.equal(output, bare)
    assert shapes == {(specimen.batch, specimen.classes)}


@pytest.mark.parametrize("name", ["dict_output", "tuple_output"])
def test_an_output_of_several_things_keeps_them(name):
    specimen = ZOO[name]
    bare, wrapped = specimen.make("m"), wrap_with_shortcuts(specimen.make("m"))
    plain, joined = bare(specimen.sequence()), wrapped(specimen.sequence())
    assert type(joined) is type(plain)
    if name == "dict_output":
        assert list(joined) == list(plain)
        assert joined["version"] == 1
    else:
        assert joined[0] is None
        assert isinstance(joined[2], list)
    # Its logits carry the heads, so that DistributedDataParallel finds them.
    assert "Join" in type(specimen.read(joined).grad_fn).__name__


def test_a_batch_is_learnt_by_heart():
    """What the other tests compare to itself does learn, and what remains knows it."""
    specimen = ZOO["nested"]
    model = wrap_with_shortcuts(specimen.make("m"))
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), EvolutionarySchedule(30))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(30):
        loss = criterion(model(specimen.sequence()).mean(0), specimen.target())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(model)
        criterion.schedule.step()
    remove_shortcuts(model)
    output = model(specimen.sequence()).mean(0)
    assert torch.equal(output.argmax(1), specimen.target())
