"""A compiled loss, and a step compiled as a whole: compiled once for all epochs, and right."""

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional, layer
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from sj_shortcut import (
    EvolutionarySchedule,
    ShortcutLoss,
    shortcut_branches,
    wrap_with_shortcuts,
)
from tests.interop.test_captured import (
    EPOCHS,
    OPTIONS,
    SCHEDULES,
    Head,
    assert_alike,
    mse,
    train,
)
from tests.nets.small import Net, StatelessNet, gradients, images, labels

pytestmark = pytest.mark.filterwarnings("ignore:.*side effects")

CE = nn.CrossEntropyLoss()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    torch.compiler.reset()


class Unrolled(nn.Module):
    """A model of step mode 's', called once a time step."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.model(step) for step in x])


def counter() -> CompileCounterWithBackend:
    return CompileCounterWithBackend("aot_eager")


def compiled_step(
    counted: CompileCounterWithBackend, fullgraph: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile forward and loss together; what ``train`` gives also runs backward."""

    def compiled(step: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(step, fullgraph=fullgraph, backend=counted)

    return compiled


def wrapped(mode: str = "m", net: type[Net] = StatelessNet, **wrapping: Any) -> nn.Module:
    """Compiled code takes axes as they were seen when wrapping."""
    example = images() if mode == "m" else images()[0]
    return wrap_with_shortcuts(net(mode), example_input=example, **wrapping)


def pair(
    schedule: str, options: dict[str, Any], mode: str = "m", **wrapping: Any
) -> list[tuple[nn.Module, ShortcutLoss]]:
    options = {"criterion": CE, **options}
    net = wrapped(mode, **wrapping)
    models = [net, copy.deepcopy(net)]
    return [
        (
            one if mode == "m" else Unrolled(one),
            ShortcutLoss(one, schedule=SCHEDULES[schedule](), **options),
        )
        for one in models
    ]


def train_with_backward_outside(
    model: nn.Module, loss: ShortcutLoss, compiled: Callable[..., Any]
) -> list[Any]:
    def forward(x: Tensor, y: Tensor) -> Tensor:
        output = model(x)
        return loss(output if loss.per_step else output.mean(0), y)

    run = compiled(forward)

    def whole(step: Callable[..., Any]) -> Callable[..., Any]:
        def forward_and_backward(x: Tensor, y: Tensor) -> Tensor:
            total = run(x, y)
            total.backward()
            return total

        return forward_and_backward

    return train(model, loss, whole, evaluate=run)


# A few of those of captured steps, as compiling takes its time.
SOME = [
    ("handover", "as it is"),
    ("handover", "own criterion"),
    ("falling", "per step"),
    ("rising", "weights"),
    ("own", "logits"),
]


@pytest.mark.parametrize("mode", ["m", "s"])
@pytest.mark.parametrize(("schedule", "options"), SOME)
def test_a_whole_step_is_compiled_once_for_all_epochs(schedule, options, mode):
    (model, loss), (twin, other) = pair(schedule, OPTIONS[options], mode)
    told = OPTIONS[options].get("criterion") is None
    if not told:  # whether its output is logits is seen at the first step
        loss(model(images()).mean(0), labels())
        loss.schedule = SCHEDULES[schedule]()
        model.zero_grad()
        functional.reset_net(model)
    counted = counter()
    found = train_with_backward_outside(model, loss, compiled_step(counted))
    assert counted.frame_count == 3  # training, the smaller last batch, evaluation
    assert_alike(found, train(twin, other, lambda step: step))
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("schedule", "options"), SOME)
def test_a_loss_is_compiled_once_for_all_epochs(schedule, options):
    (model, loss), (twin, other) = pair(schedule, OPTIONS[options], head=Head)
    counted = counter()
    compiled = torch.compile(loss, backend=counted)

    def step(_: Any) -> Callable[..., Any]:
        def forward_and_backward(x: Tensor, y: Tensor) -> Tensor:
            output = model(x)
            total = compiled(output if loss.per_step else output.mean(0), y)
            total.backward()
            return total

        return forward_and_backward

    def evaluate(x: Tensor, y: Tensor) -> Tensor:
        output = model(x)
        return compiled(output if loss.per_step else output.mean(0), y)

    found = train(model, loss, step, evaluate=evaluate)
    assert counted.frame_count == 3
    assert_alike(found, train(twin, other, lambda step: step))


@pytest.mark.parametrize("head", [None, Head], ids=["default heads", "own heads"])
def test_a_broken_head_of_coefficient_zero_poisons_no_compiled_step(head):
    model = wrapped(head=head)
    loss = ShortcutLoss(model, CE, EvolutionarySchedule(1))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(x: Tensor, y: Tensor) -> Tensor:
        return loss(model(x).mean(0), y)

    x, y = images(), labels()
    step(x, y).backward()
    with torch.no_grad():
        for parameter in shortcut_branches(model)["layer2.1"].parameters():
            parameter.fill_(math.nan)
    assert step(x, y).isnan()
    loss.schedule.step()
    model.zero_grad()
    total = step(x, y)
    total.backward()
    assert total.item() == pytest.approx(CE(model(x).mean(0), y).item())
    heads = {id(p) for p in shortcut_branches(model)["layer2.1"].parameters()}
    for name, parameter in model.named_parameters():
        assert id(parameter) in heads or parameter.grad.isfinite().all(), name


def two_views(model: nn.Module, loss: ShortcutLoss, x: Tensor, y: Tensor) -> Tensor:
    first, second = model(x), model(2 * x)
    return loss(second.mean(0), y) + 2 * loss(first.mean(0), y)


def first_of_two(model: nn.Module, loss: ShortcutLoss, x: Tensor, y: Tensor) -> Tensor:
    first = model(x)
    model(2 * x)
    return loss(first.mean(0), y)


def second_of_two(model: nn.Module, loss: ShortcutLoss, x: Tensor, y: Tensor) -> Tensor:
    model(2 * x)
    return loss(model(x).mean(0), y)


def mean_of_two(model: nn.Module, loss: ShortcutLoss, x: Tensor, y: Tensor) -> Tensor:
    return loss((model(x).mean(0) + model(2 * x).mean(0)) / 2, y)


def twice(model: nn.Module, loss: ShortcutLoss, x: Tensor, y: Tensor) -> Tensor:
    output = model(x).mean(0)
    return loss(output, y) + loss(2 * output, y)


@pytest.mark.parametrize("function", [two_views, first_of_two, second_of_two, mean_of_two, twice])
def test_an_output_is_paired_with_its_own_logits_or_told(function):
    (model, loss), (twin, other) = pair("handover", {})
    compiled = torch.compile(lambda x, y: function(model, loss, x, y), backend="aot_eager")
    for _ in range(3):
        x, y = images(), labels()
        model.zero_grad()
        twin.zero_grad()
        expected = function(twin, other, x, y)
        expected.backward()
        try:
            found = compiled(x, y)
        except RuntimeError as error:
            assert "in one piece of compiled code" in str(error)  # noqa: PT017
            continue
        found.backward()
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(gradients(model), gradients(twin))


@pytest.mark.parametrize("mode", ["m", "s"])
@pytest.mark.parametrize("chosen", [0, 1])
def test_which_of_two_forwards_is_told_where_the_loss_is_outside(chosen, mode):
    (model, loss), _ = pair("handover", {}, mode)
    both = torch.compile(lambda x: (model(x), model(2 * x)), backend="aot_eager")
    with pytest.raises(RuntimeError, match="several forwards of wrapped models"):
        loss(both(images())[chosen].mean(0), labels())


@pytest.mark.parametrize("chosen", [0, 1])
@pytest.mark.parametrize("of", [0, 1])
def test_which_of_two_models_is_told_where_the_losses_are_outside(chosen, of):
    (one, loss), (two, other) = pair("handover", {})
    both = torch.compile(lambda x: (one(x), two(2 * x)), backend="aot_eager")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="several forwards of wrapped models"):
            (loss, other)[of](both(images())[chosen].mean(0), labels())
    torch.compiler.reset()  # numbers of traces begin anew
    alone = torch.compile(one, backend="aot_eager")
    loss(alone(images()).mean(0), labels()).backward()


def test_an_output_of_another_model_is_told():
    (model, _), (_, other) = pair("handover", {})

    def step(x: Tensor, y: Tensor) -> Tensor:
        output = model(x).mean(0)
        other._root[0](x)
        return other(output, y)

    compiled = torch.compile(step, backend="aot_eager")
    with pytest.raises(RuntimeError, match="from another wrapped model"):
        compiled(images(), labels())


def test_an_output_from_before_the_step_is_paired_or_told():
    (model, loss), (twin, other) = pair("handover", {})
    x, y = images(), labels()

    def step(output: Tensor) -> Tensor:
        model(2 * x)
        return loss(output.mean(0), y)

    found = torch.compile(step, backend="aot_eager")(model(x))
    torch.testing.assert_close(found, other(twin(x).mean(0), y))


@pytest.mark.parametrize("model_compiled", [True, False])
@pytest.mark.parametrize("loss_compiled", [True, False])
def test_model_and_loss_may_be_compiled_apart(model_compiled, loss_compiled):
    (model, loss), (twin, other) = pair("falling", {})
    counted = counter()
    run = torch.compile(model, backend=counted, fullgraph=True) if model_compiled else model
    take = torch.compile(loss, backend=counted) if loss_compiled else loss
    for epoch in range(EPOCHS):
        for _ in range(3):
            x, y = images(), labels()
            model.zero_grad()
            twin.zero_grad()
            total, expected = take(run(x).mean(0), y), other(twin(x).mean(0), y)
            total.backward()
            expected.backward()
            functional.reset_net(model)
            torch.testing.assert_close(total, expected)
            if epoch < EPOCHS - 1:
                torch.testing.assert_close(gradients(model), gradients(twin))
        loss.schedule.step()
        other.schedule.step()
    # A compiled model is two pieces: its forward, and our hook after it.
    assert counted.frame_count == 2 * model_compiled + loss_compiled


class Probable(StatelessNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(-1)


def test_what_an_output_is_is_seen_once_or_said_by_the_criterion():
    model = wrapped(net=Probable)
    twin = copy.deepcopy(model)
    loss, other = ShortcutLoss(model, mse), ShortcutLoss(twin, mse)
    compiled = torch.compile(lambda x, y: loss(model(x).mean(0), y), backend="aot_eager")
    for _ in range(3):
        x, y = images(), labels()
        torch.testing.assert_close(compiled(x, y), other(twin(x).mean(0), y))


@pytest.mark.parametrize("after", [lambda x: x, torch.log], ids=["softmax", "log of softmax"])
def test_what_a_compiled_model_ends_in_is_seen_when_wrapping(after):
    model = wrapped(net=Probable)
    twin = copy.deepcopy(model)
    loss, other = ShortcutLoss(model, mse), ShortcutLoss(twin, mse)
    compiled = torch.compile(model, backend="aot_eager")
    x, y = images(), labels()
    expected = other(after(twin(x)).mean(0), y)
    torch.testing.assert_close(loss(after(compiled(x)).mean(0), y), expected)


class SpikingHead(nn.Sequential):
    """It sees every time step, so that its layers follow those of its point."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(layer.Linear(channels, 8), layer.Linear(8, num_classes))


@pytest.mark.parametrize("head", [None, SpikingHead], ids=["default heads", "spiking heads"])
@pytest.mark.parametrize("mode", ["m", "s"])
def test_a_compiled_model_is_compiled_once(mode, head):
    model = wrapped(mode, head=head)
    counted = counter()
    compiled = torch.compile(model, backend=counted, fullgraph=True)
    loss = ShortcutLoss(model, CE)
    counts = []
    for _ in range(3):
        x = images()
        output = compiled(x) if mode == "m" else torch.stack([compiled(step) for step in x])
        loss(output.mean(0), labels()).backward()
        functional.reset_net(model)
        counts.append(counted.frame_count)
    # Its forward, and our hook after it; once more where a time step has one before it.
    assert counts == [2 if mode == "m" else 3] * 3


def test_slips_are_told_where_a_compiled_loss_can():
    model = wrapped()
    compiled = torch.compile(ShortcutLoss(model, CE), backend="aot_eager")
    own = [p for n, p in model.named_parameters() if "shortcut_head" not in n]
    optimizer = torch.optim.SGD(own, lr=0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(10):
            optimizer.zero_grad()
            compiled(model(images()).mean(0), labels()).backward()
            optimizer.step()
    assert any("does not hold the shortcut heads" in str(one.message) for one in caught)
