"""What holds for every network, choice of points and schedule, on networks drawn at random.

`HYPOTHESIS_PROFILE=deep` looks at twenty times as many.
"""

import copy
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from spikingjelly.activation_based import base, functional
from torch import Tensor, nn

from sj_shortcut import (
    EvolutionarySchedule,
    ShortcutLoss,
    has_shortcuts,
    remove_shortcuts,
    shortcut_branches,
    shortcut_logits,
    shortcut_parameters,
    shortcut_points,
    shortcuts_enabled,
    wrap_with_shortcuts,
)
from sj_shortcut.neurons import is_spiking_neuron
from sj_shortcut.places import ShortcutPoint, ShortcutPoints
from tests.nets.random_blocks import Beside
from tests.nets.random_nets import Chain, Fire, Norm, Plan, Residual, Weigh, plans
from tests.nets.random_neurons import OWN_CLASSES, Weights

# Networks are large as hypothesis's examples go.
drawn = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
DEEP = drawn.max_examples >= 1000
pytestmark = pytest.mark.timeout(0 if DEEP else 1800)
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


# ---------------------------------------------------------------------------------- what is chosen


def places(plan: Plan) -> dict[str, Tensor]:
    """Output of each place where a head could sit, [T, N, C, ...], computed by hand."""
    model = plan.model()
    return plan.by_hand(weights_of(model), plan.sequence(), drops=False)[1]


def points_of(model: nn.Module, example: Tensor | None = None) -> ShortcutPoints:
    return shortcut_points(model, example, neuron_types=OWN_CLASSES)


wrap = partial(wrap_with_shortcuts, neuron_types=OWN_CLASSES, grid=2)


def weights_of(model: nn.Module) -> Weights:
    """Parameters and buffers of the model's own, in the graph."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: value for name, value in named if "shortcut_head" not in name}


@dataclass(frozen=True)
class Choice:
    """How to wrap.

    Attributes:
        at: Where heads sit.
        example: Whether channels are taken from a forward pass.
        names: Where heads must then be, if it is known without asking the library.
        always: The places that no batch leaves out.
    """

    at: Any
    example: bool
    names: tuple[str, ...] | None
    always: frozenset[str]

    def wrap(self, plan: Plan, model: nn.Module) -> nn.Module:
        dtype = next(model.parameters()).dtype
        example = plan.example(plan.sequence(dtype=dtype)) if self.example else None
        wrap(model, self.at, num_classes=plan.classes, example_input=example)
        # Where the example ran heads, and the first batch leaves out all, the loss asks for them.
        assume(not self.example or self.always & shortcut_branches(model).keys())
        return model


def choose(data: st.DataObject, plan: Plan) -> Choice:
    """One of all the ways to say where heads sit, that is a valid one for this network."""
    # Of one sample of one step, neurons of the user's own do not tell which axis is which.
    assume(plan.T * plan.N > 1 or not any(getattr(part, "own", False) for part in plan.parts()))
    example = data.draw(st.booleans(), "example_input")
    example = example or has_cat(plan) or has_side(plan) or plan.needs_example
    model = plan.model()
    points = points_of(model, plan.example(plan.sequence()) if example else None)
    outputs = places(plan)
    usable = [point.name for point in points if point.usable]
    on_path = [point.name for point in points if point.on_path]
    # A chain and its last part are one output, and take one head.
    apart = {id(outputs[name]): name for name in data.draw(st.permutations(usable), "order")}
    assume(apart)
    names = data.draw(st.lists(st.sampled_from(list(apart.values())), min_size=1, unique=True))
    ordered = tuple(name for name in usable if name in names)
    ways = [(names, ordered), (lambda name, module: name in names, ordered)]
    if len(names) == 1:
        ways += [(names[0], ordered), (f"{names[0][:-1]}[{names[0][-1]}]", ordered)]
    if on_path:
        count = data.draw(st.integers(1, len(on_path)), "heads")
        ways += [("stages", None), ("all", tuple(on_path)), (count, None)]
    at, expected = data.draw(st.sampled_from(ways), "at")
    _, always = plan.by_hand(weights_of(model), plan.sequence(), drops=True)
    # Where a first batch leaves out all spiking layers, nothing tells time from positions.
    fires = (is_spiking_neuron(model.get_submodule(name), extra=OWN_CLASSES) for name in always)
    assume(example or any(fires))
    return Choice(at, example, expected, frozenset(always))


def has_cat(plan: Plan) -> bool:
    """Whether the modules do not tell all channels."""
    return any(getattr(part, "cat", False) for part in plan.parts())


def has_side(plan: Plan) -> bool:
    """Whether the modules do not tell what the output depends on."""
    return any(isinstance(part, Beside) for part in plan.parts())


@dataclass(frozen=True)
class Training:
    """How the loss is made of the heads' logits.

    Attributes:
        schedule: λ over the epochs.
        combine: "loss" or "logits".
        per_step: Whether there is a loss of every time step.
        criterion: The task loss.
    """

    schedule: EvolutionarySchedule
    combine: str
    per_step: bool
    criterion: Callable[[Tensor, Tensor], Tensor]

    @property
    def gives_what_the_model_gives(self) -> bool:
        """Whether the criterion is one that may be given more than logits."""
        return self.combine == "loss" and self.criterion is not F.cross_entropy

    def loss(self, model: nn.Module, weights: dict[str, float]) -> ShortcutLoss:
        return ShortcutLoss(
            model, self.criterion, copy.deepcopy(self.schedule), weights=weights,
            combine=self.combine, per_step=self.per_step,
        )  # fmt: skip

    def total_by_hand(
        self, main: Tensor, heads: dict[str, Tensor], weights: dict[str, float], y: Tensor
    ) -> Tensor:
        """The formula of the method, of logits [T, N, K]."""
        if not self.per_step:
            main = main.mean(0, keepdim=True)
            heads = {name: logits.mean(0, keepdim=True) for name, logits in heads.items()}
        if self.combine == "logits":
            main = main + sum(weights[name] * logits for name, logits in heads.items())
            return self._mean_loss(main, y)
        terms = [weights[name] * self._mean_loss(logits, y) for name, logits in heads.items()]
        return self._mean_loss(main, y) + sum(terms)

    def _mean_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return torch.stack([self.criterion(step, y) for step in logits]).mean()


def smoothed(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, label_smoothing=0.1)


def squared(logits: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(logits, F.one_hot(y, logits.shape[-1]).to(logits.dtype))


schedules = st.builds(
    EvolutionarySchedule,
    st.integers(1, 4),
    st.sampled_from(["linear", "cosine", "exponential", "step"]),
    start=st.sampled_from([1.0, 0.3, 2.5]),
    hold=st.sampled_from([0.0, 0.2]),
    finish=st.sampled_from([1.0, 0.5]),
)
trainings = st.builds(
    Training,
    schedules,
    st.sampled_from(["loss", "logits"]),
    st.booleans(),
    st.sampled_from([F.cross_entropy, smoothed, squared]),
)


def step(plan: Plan, model: nn.Module, loss: ShortcutLoss, seed: int, more: int = 0) -> Tensor:
    """Forward, loss and backward of one batch, of `more` samples than planned."""
    x = plan.sequence(seed, next(model.parameters()).dtype, more)
    model.zero_grad()
    outputs = plan.outputs(model, x)
    total = loss(outputs if loss.per_step else outputs.mean(0), plan.target(more))
    total.backward()
    functional.reset_net(model)
    return total.detach()


def gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


# ------------------------------------------------------------------- gradients, from the definition


@drawn
@given(plan=plans(cat=True), training=trainings, data=st.data())
def test_gradients_are_those_of_a_network_computed_by_hand(plan, training, data):
    """Over several epochs, as λ falls to 0 and the batch size changes."""
    choice = choose(data, plan)
    model = choice.wrap(plan, plan.model())
    branches = shortcut_branches(model)
    assert choice.names is None or tuple(branches) == choice.names
    weights = {name: data.draw(st.sampled_from([1.0, 0.0, 0.5, 3.0]), name) for name in branches}
    loss = training.loss(model, weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    for epoch in range(3):
        more = data.draw(st.integers(0, 2), "more samples")
        effective = {name: training.schedule(epoch) * w for name, w in weights.items()}
        parameters = list(model.parameters())
        due, due_gradients = step_by_hand(plan, model, training, effective, epoch, more)
        total = step(plan, model, loss, epoch, more)

        torch.testing.assert_close(total, due.detach())
        assert_gradients(gradients(parameters), due_gradients)
        optimizer.step()
        loss.schedule.step()
    event(f"heads: {len(branches)}")


def step_by_hand(
    plan: Plan,
    model: nn.Module,
    training: Training,
    weights: dict[str, float],
    seed: int,
    more: int,
) -> tuple[Tensor, list[Tensor]]:
    """The loss of a batch, and its gradient for each parameter that has one."""
    main, outputs = plan.by_hand(weights_of(model), plan.sequence(seed, more=more))
    logits = {}
    for name, branch in shortcut_branches(model).items():
        if name not in outputs:  # its block is left out this time
            continue
        linear, whole = branch.head.linear, branch.head.grid == 1
        feature = averages_over_parts(outputs[name], whole)
        logits[name] = F.linear(feature, linear.weight, linear.bias)
        if ends_in_relu(plan) and training.gives_what_the_model_gives:
            logits[name] = logits[name].relu()
    total = training.total_by_hand(main, logits, weights, plan.target(more))
    assume(total.requires_grad)  # spikes of resonators do not depend on the first time step
    learning = [p for p in model.parameters() if p.requires_grad]
    return total, list(torch.autograd.grad(total, learning, materialize_grads=True))


def ends_in_relu(plan: Plan) -> bool:
    """Whether the output is that of neurons which give activations."""
    return getattr(plan.net.parts[-1], "family", "") == "LIAFNode"


def assert_gradients(found: list[Tensor], due: list[Tensor]) -> None:
    """As close as doubles are: where large ones cancel, what is left of them is rounding."""
    largest = max(gradient.abs().max().item() for gradient in due)
    torch.testing.assert_close(found, due, rtol=1e-7, atol=max(1e-7, 1e-12 * largest))


def averages_over_parts(x: Tensor, whole: bool) -> Tensor:
    """[T, N, C * parts] of features [T, N, C, ...]: four parts of space, or the whole of it."""
    if whole or x.ndim == 3:
        return x.flatten(3).mean(3) if x.ndim > 3 else x
    space = x.flatten(0, 1).mean(2) if x.ndim == 6 else x.flatten(0, 1)
    if space.ndim == 3:
        parts = F.adaptive_avg_pool1d(space, 4)
    else:
        parts = F.adaptive_avg_pool2d(space, 2)
    return parts.reshape(*x.shape[:2], -1)


# ------------------------------------------------------------------------------- both step modes


@drawn
@given(plan=plans(both=True), training=trainings, data=st.data())
def test_both_step_modes_compute_the_same(plan, training, data):
    choice = choose(data, plan)
    results, grids = [], []
    for mode in ("m", "s"):
        own = replace(plan, mode=mode)
        model = choice.wrap(own, own.model())
        grids.append([branch.head.grid for branch in shortcut_branches(model).values()])
        for module in model.modules():  # its statistics differ: of all time steps, or of each
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        loss = training.loss(model, {})
        outputs = own.outputs(model, own.sequence())
        logits = shortcut_logits(model)
        total = loss(outputs if loss.per_step else outputs.mean(0), own.target())
        total.backward()
        results.append((total.detach(), outputs.detach(), values(logits), gradients_of(model)))
    # Whether a place has several positions is told by the example, or guessed from made-up data.
    assert grids[0] == grids[1] or not choice.example
    if grids[0] == grids[1]:
        torch.testing.assert_close(*results)


def values(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in tensors.items()}


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    """Of zeros where there is none, as in step mode 's' behind a resonator's only time step."""
    named = dict(model.named_parameters())
    return dict(zip(named, gradients(list(named.values())), strict=True))


def with_gradients(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.grad is not None]


# ------------------------------------------------------------------------- wrapping and removing


def snapshot(model: nn.Module) -> dict[str, Any]:
    """What wrapping must leave as it is."""
    modules = [(name, m) for name, m in model.named_modules() if "shortcut_head" not in name]
    return {
        "rng": [
            torch.get_rng_state().numpy().tobytes(),
            pickle.dumps(np.random.get_state()),
            pickle.dumps(random.getstate()),
        ],
        "tensors": [(name, id(t), t.dtype, bytes_of(t)) for name, t in weights_of(model).items()],
        "frozen": [
            (name, p.requires_grad)
            for name, p in model.named_parameters()
            if "shortcut_head" not in name
        ],
        "modules": [(name, id(m), m.training) for name, m in modules],
        "step modes": [(name, getattr(m, "step_mode", None)) for name, m in modules],
        "memories": [
            (name, key, bytes_of(value) if isinstance(value, Tensor) else value)
            for name, m in modules
            if isinstance(m, base.MemoryModule)
            for key, value in m._memories.items()
        ],
    }


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().flatten().view(torch.uint8).numpy().tobytes()


def unsettle(data: st.DataObject, plan: Plan, model: nn.Module) -> None:
    """Used before: memories of a forward pass, some layers frozen, some in eval mode."""
    if data.draw(st.booleans(), "used"):
        with torch.no_grad():
            plan.outputs(model.eval(), plan.sequence(5, next(model.parameters()).dtype))
        model.train()
    chance = random.Random(data.draw(st.integers(0, 9), "chance"))
    for module in model.modules():
        module.training = chance.random() < 0.8
    for parameter in model.parameters():
        parameter.requires_grad = chance.random() < 0.8


@drawn
@given(plan=plans(cat=True), data=st.data(), dtype=st.sampled_from(DTYPES))
def test_wrapping_adds_heads_and_nothing_else(plan, data, dtype):
    choice = choose(data, plan)
    # In training mode also the surrogate functions that neurons share, whoever used them last.
    model = plan.model(dtype=dtype).train()
    fresh = pickle.dumps(model)
    unsettle(data, plan, model)
    before, text = snapshot(model), repr(model)

    assert choice.wrap(plan, model) is model
    assert snapshot(model) == before
    for name, branch in shortcut_branches(model).items():
        assert {p.dtype for p in branch.parameters()} == {dtype}
        assert {m.training for m in branch.modules()} == {model.get_submodule(name).training}
    assert remove_shortcuts(model) is model
    assert snapshot(model) == before
    assert repr(model) == text

    for module in model.modules():
        module.training = True
    for parameter in model.parameters():
        parameter.requires_grad = True
    functional.reset_net(model)
    same = pickle.dumps(model) == fresh  # on a line of its own, or pytest would print both
    assert same


@drawn
@given(plan=plans(cat=True), data=st.data(), dtype=st.sampled_from(DTYPES))
def test_outputs_are_bit_for_bit_those_of_the_bare_model(plan, data, dtype):
    choice = choose(data, plan)
    bare, wrapped = plan.model(dtype=dtype), choice.wrap(plan, plan.model(dtype=dtype))
    for seed, training in enumerate((True, False, True)):
        x = plan.sequence(seed, dtype)
        results = []
        for model in (bare, wrapped):
            results.append(plan.outputs(model.train(training), x).detach())
            functional.reset_net(model)
        assert torch.equal(*results)
    assert torch.equal(torch.cat(buffers(bare)), torch.cat(buffers(wrapped)))


def buffers(model: nn.Module) -> list[Tensor]:
    return [torch.zeros(1), *(buffer.flatten().float() for buffer in model.buffers())]


# --------------------------------------------------------------------------------------- training


OPTIMIZERS = [
    lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3),
    lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
]


@drawn
@given(
    plan=plans(cat=True),
    training=trainings,
    data=st.data(),
    dtype=st.sampled_from(DTYPES),
    optimizer=st.sampled_from(OPTIMIZERS),
)
def test_once_the_coefficient_is_zero_training_is_that_of_the_bare_model(
    plan, training, data, dtype, optimizer
):
    """Bit for bit, from where λ fell to 0 to the model that remains when the heads are gone."""
    # PyTorch 2.14 on a CPU leaves memory as it was in gradients of such a convolution's weights.
    in_3d = any(isinstance(part, Weigh) and part.dims == 3 for part in plan.parts())
    assume(not in_3d or dtype != torch.bfloat16)
    choice = choose(data, plan)
    model = choice.wrap(plan, plan.model(dtype=dtype))
    loss = training.loss(model, {})
    first = optimizer(model.parameters())
    while loss.schedule.coefficient > 0:
        step(plan, model, loss, seed=int(loss.schedule.last_epoch))
        first.step()
        loss.schedule.step()
    before = copy.deepcopy(model)
    twin = remove_shortcuts(before)

    second, bare = optimizer(model.parameters()), optimizer(twin.parameters())
    for seed in range(10, 12):
        step(plan, model, loss, seed)
        plain_step(plan, twin, training, seed)
        forget_zeros_for_none(model, twin)
        second.step()
        bare.step()

    assert contents(remove_shortcuts(model)) == contents(twin)
    fresh = plan.model(seed=7, dtype=dtype)
    fresh.load_state_dict(model.state_dict(), strict=True)
    outputs = [evaluated(plan, net) for net in (model, twin, fresh)]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert not has_shortcuts(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def forget_zeros_for_none(model: nn.Module, twin: nn.Module) -> None:
    """A layer that the model's output does not depend on has zeros where the bare one has none."""
    own = dict(model.named_parameters())
    for name, parameter in twin.named_parameters():
        if parameter.grad is None and own[name].grad is not None:
            assert not own[name].grad.any()
            own[name].grad = None


def contents(model: nn.Module) -> dict[str, bytes]:
    return {name: bytes_of(value) for name, value in model.state_dict().items()}


def plain_step(plan: Plan, model: nn.Module, training: Training, seed: int) -> None:
    model.zero_grad()
    outputs = plan.outputs(model, plan.sequence(seed, next(model.parameters()).dtype))
    if training.per_step:
        terms = [training.criterion(logits, plan.target()) for logits in outputs]
        total = torch.stack(terms).mean(0)
    else:
        total = training.criterion(outputs.mean(0), plan.target())
    assume(total.requires_grad)
    total.backward()
    functional.reset_net(model)


def evaluated(plan: Plan, model: nn.Module) -> Tensor:
    with torch.no_grad():
        outputs = plan.outputs(model.eval(), plan.sequence(3, next(model.parameters()).dtype))
    functional.reset_net(model)
    return outputs


@drawn
@given(plan=plans(cat=True), training=trainings, data=st.data())
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_in_the_middle_of_training_goes_on_as_the_original(copied, plan, training, data):
    choice = choose(data, plan)
    model = choice.wrap(plan, plan.model())
    loss = training.loss(model, {})
    step(plan, model, loss, seed=0)
    loss.schedule.step()
    twin, twin_loss = copied((model, loss))
    assert torch.equal(step(plan, model, loss, seed=1), step(plan, twin, twin_loss, seed=1))
    assert with_gradients(model) == with_gradients(twin)
    for own, other in zip(gradients(list(model.parameters())),
                          gradients(list(twin.parameters())), strict=True):  # fmt: skip
        assert torch.equal(own, other)


# ------------------------------------------------------------------------- what is told of points


UNKNOWN = "channels unknown from the modules: pass example_input="
OUTPUT = "the model's output itself"
ASKED = "could not be seen: pass layout="


def seen_points(plan: Plan, model: nn.Module) -> dict[str, ShortcutPoint]:
    """With an example, and with the axes where they are asked for, as they may be where sizes tie.

    Spikes then do not tell axes apart, of which a norm mixes channels besides.
    """
    example = plan.example(plan.sequence())
    seen = {point.name: point for point in points_of(model, example)}
    axes = {"batch": "NTC...", "folded": f"({plan.T}N)C...", "inside": "NC..."}.get(
        plan.style.name, "TNC..." if plan.mode == "m" else "NC..."
    )
    asked = {name: axes for name, point in seen.items() if point.reason.endswith(ASKED)}
    if not asked:
        return seen
    event("axes asked for")
    points = shortcut_points(model, example, neuron_types=OWN_CLASSES, layout=asked)
    return {point.name: point for point in points}


@drawn
@given(plan=plans())
def test_points_are_the_places_computed_by_hand(plan):
    """Without an example, a place may be unknown, but nothing told of it may be wrong."""
    outputs = places(plan)
    model = plan.model()
    before = pickle.dumps(model)
    blind = {point.name: point for point in points_of(model)}
    seen = seen_points(plan, model)
    beside = plan.beside()
    assert set(blind) == set(seen) == (set(outputs) | beside) - {""}
    assert not any(seen[name].usable for name in beside)
    for name, output in outputs.items():
        if not name:
            continue
        assert seen[name].usable or seen[name].reason == OUTPUT, seen[name]
        assert seen[name].channels == output.shape[2]
        if has_side(plan) or (plan.needs_example and not blind[name].usable):
            continue
        assert blind[name].usable or blind[name].reason in (UNKNOWN, OUTPUT), blind[name]
        assert blind[name].channels in (None, output.shape[2])
    same = pickle.dumps(model) == before
    assert same


@drawn
@given(
    plan=plans(cat=True).filter(
        lambda plan: has_cat(plan) and not (plan.needs_example or has_side(plan))
    )
)
def test_a_wrong_guess_of_channels_is_refused_by_the_first_forward(plan):
    """Where parts are put side by side, the modules suggest a width that is not that of the sum."""
    model, outputs = plan.model(), places(plan)
    usable = [point.name for point in points_of(model) if point.usable]
    apart = {id(outputs[name]): name for name in usable}
    assume(apart)
    wrap(model, list(apart.values()), num_classes=plan.classes)
    branches = shortcut_branches(model).items()
    wrong = [name for name, branch in branches if branch.channels != outputs[name].shape[2]]
    if not wrong:
        plan.outputs(model, plan.sequence())
        return
    with pytest.raises(ValueError, match="was made for .* channels") as error:
        plan.outputs(model, plan.sequence())
    assert any(f"'{name}'" in str(error.value) for name in wrong)


@drawn
@given(plan=plans().filter(lambda plan: not (plan.needs_example or has_side(plan))))
def test_a_head_for_every_place_has_its_own_gradient(plan):
    """Every usable point at once, as far as outputs differ; each head learns from its own."""
    model = plan.model()
    outputs = places(plan)
    usable = [point.name for point in points_of(model) if point.usable]
    apart = {id(outputs[name]): name for name in usable}
    assume(apart)
    wrap(model, list(apart.values()))
    loss = ShortcutLoss(model, F.cross_entropy)
    step(plan, model, loss, seed=1)
    assert set(shortcut_branches(model)) == set(apart.values())
    _, ran = plan.by_hand(weights_of(model), plan.sequence(1))
    for name, branch in shortcut_branches(model).items():
        for parameter in branch.parameters():
            assert (parameter.grad is not None) == (name in ran), name
            assert name not in ran or parameter.grad.isfinite().all()


# ------------------------------------------------------------------- any order of what people do


class Life(RuleBasedStateMachine):
    """Whatever was done to a model before, a step of training is that computed by hand."""

    @initialize(plan=plans(both=True, stages=3), seed=st.integers(0, 99))
    def begin(self, plan: Plan, seed: int) -> None:
        self.plan = plan
        self.model = plan.model(seed)
        self.keys = list(self.model.state_dict())
        self.chance = random.Random(seed)

    @property
    def modules(self) -> list[nn.Module]:
        named = self.model.named_modules()
        return [m for name, m in named if "shortcut" not in name and "surrogate" not in name]

    def forward(self, seed: int = 5) -> Tensor:
        return self.plan.outputs(self.model, self.plan.sequence(seed))

    @precondition(lambda self: not has_shortcuts(self.model))
    @rule(data=st.data(), example=st.booleans())
    def wrap(self, data: st.DataObject, example: bool) -> None:
        points = points_of(self.model)
        ways: list[Any] = [[point.name] for point in points if point.usable]
        if any(point.on_path for point in points):
            ways += ["all", "stages", 1]
        assume(ways)
        wrap(
            self.model,
            data.draw(st.sampled_from(ways)),
            num_classes=self.plan.classes,
            example_input=self.plan.example(self.plan.sequence()) if example else None,
        )

    @precondition(lambda self: has_shortcuts(self.model))
    @rule()
    def remove(self) -> None:
        remove_shortcuts(self.model)

    @precondition(lambda self: has_shortcuts(self.model))
    @rule(training=trainings, seed=st.integers(0, 99), more=st.integers(0, 2), zero=st.booleans())
    def train(self, training: Training, seed: int, more: int, zero: bool) -> None:
        functional.reset_net(self.model.train())
        names = list(shortcut_branches(self.model))
        weights = {name: 0.0 if zero else self.chance.choice([0.5, 1.0]) for name in names}
        loss = training.loss(self.model, weights)
        learning = [p for p in self.model.parameters() if p.requires_grad]
        coefficient = training.schedule(0)
        effective = {name: coefficient * weight for name, weight in weights.items()}
        assume(any(p.requires_grad for p in self.model.parameters()))
        total, due = step_by_hand(self.plan, self.model, training, effective, seed, more)
        torch.testing.assert_close(step(self.plan, self.model, loss, seed, more), total.detach())
        assert_gradients(gradients(learning), due)
        torch.optim.SGD(learning, lr=0.1).step()

    @rule(training=st.booleans(), how=st.sampled_from([torch.no_grad, torch.inference_mode]))
    def look(self, training: bool, how: Callable[[], Any]) -> None:
        with how():
            self.forward_of(training)

    @rule(training=st.booleans())
    def run_without_a_loss(self, training: bool) -> None:
        self.forward_of(training)

    def forward_of(self, training: bool) -> None:
        self.model.train(training)
        self.forward()
        functional.reset_net(self.model)

    @rule()
    def fail(self) -> None:
        """At some module, in training."""
        called = [module for module in self.modules if not isinstance(module, nn.ModuleList)]
        handle = self.chance.choice(called).register_forward_pre_hook(fail)
        with pytest.raises(MemoryError):
            self.model.train()
            self.forward()
        handle.remove()
        functional.reset_net(self.model)

    @precondition(lambda self: has_shortcuts(self.model))
    @rule()
    def read(self) -> None:
        with torch.no_grad(), shortcuts_enabled(self.model.eval()):
            self.forward()
            logits = shortcut_logits(self.model)
        functional.reset_net(self.model)
        shape = (self.plan.N, self.plan.classes)
        assert {tuple(value.shape) for value in logits.values()} == {shape}

    @rule(copied=st.sampled_from([copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]))
    def go_on_with_a_copy(self, copied: Callable[[nn.Module], nn.Module]) -> None:
        functional.reset_net(self.model)
        self.model = copied(self.model)

    @rule(mode=st.sampled_from("ms"))
    def change_step_mode(self, mode: str) -> None:
        functional.set_step_mode(self.model, mode)
        self.plan = replace(self.plan, mode=mode)

    @rule(seed=st.integers(0, 9), share=st.sampled_from([0.0, 0.3]))
    def freeze(self, seed: int, share: float) -> None:
        chance = random.Random(seed)
        for parameter in self.model.parameters():
            parameter.requires_grad = chance.random() >= share

    @rule()
    def save_and_load(self) -> None:
        state = copy.deepcopy(self.model.state_dict())
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.zero_()
        self.model.load_state_dict(state)

    @invariant()
    def nothing_but_heads_is_added(self) -> None:
        if not hasattr(self, "model"):
            return
        own = [key for key in self.model.state_dict() if "shortcut_head" not in key]
        assert own == self.keys
        if not has_shortcuts(self.model):
            assert len(self.model.state_dict()) == len(own)
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in self.modules)


def fail(*args: object) -> None:
    raise MemoryError


Life.TestCase.settings = settings(drawn, stateful_step_count=12)
TestLife = Life.TestCase


# ------------------------------------------------------------------ what drawn networks have found


@pytest.mark.parametrize("per_step", [False, True])
def test_a_block_that_begins_with_a_recurrent_container_keeps_its_step_mode(per_step):
    """It once went by the neuron inside, which the container calls step by step."""
    recurrent = Fire("LIFNode", channels=2, recurrent=True)
    block = Residual(Chain((recurrent, Weigh(2, 2, 0), Fire("LIFNode"))))
    plan = Plan(
        Chain((Weigh(5, 2, 0), block, Weigh(2, 3, 0))), "m", T=2, N=2, shape=(5,), classes=3
    )
    model = wrap(plan.model(), at="1")
    output = places(plan)["1"]
    head = shortcut_branches(model)["1"].head.linear
    loss = ShortcutLoss(model, F.cross_entropy, per_step=per_step)
    step(plan, model, loss, seed=1)
    plan.outputs(model, plan.sequence())
    logits = shortcut_logits(model)["1"]
    torch.testing.assert_close(logits, F.linear(output.mean(0), head.weight, head.bias))


def test_freezing_batch_norm_does_not_silence_the_head_of_a_chain_that_ends_in_it():
    """The head of a `Sequential` lives in its last module, and once went by its training flag."""
    body = Chain((Fire("LIFNode"), Weigh(2, 2, 0), Norm("batch", 2, ())))
    plan = Plan(Chain((Weigh(5, 2, 0), body, Fire("LIFNode"), Weigh(2, 3, 0))), "s", 2, 2, (5,), 3)
    model = wrap(plan.model(), at="1")
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    loss = ShortcutLoss(model, F.cross_entropy)
    for seed in range(2):
        step(plan, model, loss, seed)
        assert all(p.grad.any() for p in shortcut_parameters(model))
    model.eval()
    plan.outputs(model, plan.sequence())
    with pytest.raises(RuntimeError, match="have no logits"):
        shortcut_logits(model)
