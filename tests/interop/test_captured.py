"""λ and sums of losses where a captured step reads them: replays run no Python."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from sj_shortcut import (
    ConstantSchedule,
    EvolutionarySchedule,
    HandoverSchedule,
    ShortcutLoss,
    ShortcutSchedule,
    shortcut_branches,
    wrap_with_shortcuts,
)
from tests.captures import StaticGraph, capturing_on_cpu
from tests.nets.small import CLASSES, Net, StatelessNet, images, labels

EPOCHS = 4
BATCHES = (5, 5, 5, 5, 5, 3)  # the last one is smaller, and runs eagerly
gpu = pytest.mark.gpu


class Head(nn.Module):
    """A head of the user's own, which runs at its point."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.square())


def mse(logits: Tensor, target: Tensor) -> Tensor:
    return (logits - torch.eye(CLASSES, device=logits.device)[target]).square().mean()


class Told(ShortcutSchedule):
    """λ is set after the base class's step, in an entry of a dict."""

    def __init__(self) -> None:
        self.table = {0: 1.0}

    def __call__(self, epoch: float) -> float:
        return self.table[int(epoch)]

    def step(self, epoch: float | None = None) -> None:
        super().step(epoch)
        self.table[int(self.last_epoch)] = 0.5**self.last_epoch


SCHEDULES: dict[str, Callable[[], ShortcutSchedule]] = {
    "handover": HandoverSchedule,
    "falling": lambda: EvolutionarySchedule(EPOCHS, finish=0.75),  # 0 in the last epoch
    "rising": lambda: Rising(),
    "own": Told,
}


class Rising(ShortcutSchedule):
    """0 when the step is captured."""

    def __call__(self, epoch: float) -> float:
        return min(1.0, 0.3 * epoch)


OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "per step": {"per_step": True},
    "weights": {"weights": [0.0, 0.5]},
    "own criterion": {"criterion": mse},
    "logits": {"combine": "logits"},
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def train(
    model: nn.Module,
    loss: ShortcutLoss,
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]],
    epochs: int = EPOCHS,
    seed: int = 3,
    device: str = "cpu",
    evaluate: Callable[..., Any] | None = None,
) -> list[Any]:
    """λ and the mean losses that the schedule was told of, epoch by epoch, and what was lost."""

    def forward_and_backward(x: Tensor, y: Tensor) -> Tensor:
        total = plain(x, y)
        total.backward()
        return total

    def plain(x: Tensor, y: Tensor) -> Tensor:
        output = model(x)
        return loss(output if loss.per_step else output.mean(0), y)

    step = wrap(forward_and_backward)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    random = torch.Generator().manual_seed(seed)
    found: list[Any] = []
    for _ in range(epochs):
        model.train()
        for size in BATCHES:
            x = (4 * torch.rand(2, size, 8, generator=random)).to(device)
            optimizer.zero_grad(set_to_none=False)
            total = step(x, labels(size).to(device))
            optimizer.step()
            functional.reset_net(model)
            found.append(total.item())
        model.eval()
        with torch.no_grad():
            found.append((evaluate or plain)(x, labels(size).to(device)))
            functional.reset_net(model)
        if isinstance(loss.schedule, HandoverSchedule):
            state = loss.schedule.state_dict()
            found += [state["sums"], state["counts"], state["batches"]]
        loss.schedule.step()
        found.append([loss.schedule.coefficient_of(name) for name in loss.weights])
    return found


def pair(
    schedule: str, options: dict[str, Any], **wrapping: Any
) -> list[tuple[nn.Module, ShortcutLoss]]:
    """Two models alike, each with its loss."""
    options = {"criterion": nn.CrossEntropyLoss(), **options}
    model = wrap_with_shortcuts(StatelessNet(), **wrapping)
    models = [model, copy.deepcopy(model)]
    return [(one, ShortcutLoss(one, schedule=SCHEDULES[schedule](), **options)) for one in models]


def assert_alike(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, check_dtype=False)


CASES = [
    (schedule, options)
    for schedule in SCHEDULES
    for options in OPTIONS
    if not (schedule == "handover" and options == "logits")
]


@pytest.mark.parametrize("head", [None, Head], ids=["default heads", "own heads"])
@pytest.mark.parametrize(("schedule", "options"), CASES)
def test_replays_train_with_the_coefficient_of_the_epoch(schedule, options, head):
    (model, loss), (twin, other) = pair(schedule, OPTIONS[options], head=head)
    graphs: list[StaticGraph] = []

    def captured(step: Callable[..., Any]) -> Callable[..., Any]:
        graphs.append(StaticGraph(step, capturing_on_cpu))
        return graphs[0]

    found = train(model, loss, captured)
    assert_alike(found, train(twin, other, lambda step: step))
    assert graphs[0].replays == EPOCHS * 5 - 4
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def capture(model: nn.Module, loss: ShortcutLoss) -> StaticGraph:
    """A step on one batch, captured after three that were not."""

    def step(x: Tensor, y: Tensor) -> Tensor:
        model.zero_grad(set_to_none=False)
        total = loss(model(x).mean(0), y)
        total.backward()
        return total

    graph = StaticGraph(step, capturing_on_cpu)
    for _ in range(4):
        graph(images(), labels())
    return graph


@pytest.mark.parametrize("head", [None, Head], ids=["default heads", "own heads"])
def test_a_broken_head_of_coefficient_zero_poisons_no_replay(head):
    model = wrap_with_shortcuts(StatelessNet(), head=head)
    loss = ShortcutLoss(model, nn.CrossEntropyLoss(), EvolutionarySchedule(1))
    graph = capture(model, loss)
    with torch.no_grad():
        for parameter in shortcut_branches(model)["layer2.1"].parameters():
            parameter.fill_(math.nan)
    x, y = images(), labels()
    assert graph(x, y).isnan()  # as it should be told
    loss.schedule.step()
    total = graph(x, y)
    assert total.item() == pytest.approx(nn.functional.cross_entropy(model(x).mean(0), y).item())
    assert loss.parts["main"].item() == pytest.approx(total.item())
    heads = {id(p) for p in shortcut_branches(model)["layer2.1"].parameters()}
    for name, parameter in model.named_parameters():
        assert id(parameter) in heads or parameter.grad.isfinite().all(), name


def test_the_heads_of_a_replay_rest_where_the_coefficient_is_zero():
    model = wrap_with_shortcuts(StatelessNet())
    loss = ShortcutLoss(model, nn.CrossEntropyLoss(), EvolutionarySchedule(1))
    graph = capture(model, loss)
    loss.schedule.step()
    x, y = images(), labels()
    graph(x, y)
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    nn.functional.cross_entropy(model(x).mean(0), y).backward()
    for name, parameter in model.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.equal(found[name], expected), name


def test_a_loaded_schedule_and_another_one_reach_the_replays():
    model = wrap_with_shortcuts(StatelessNet())
    loss = ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(1.0))
    graph = capture(model, loss)
    x, y = images(), labels()

    def weight() -> float:
        total = graph(x, y)
        main, *heads = (loss.parts[name] for name in ("main", *loss.weights))
        return ((total - main) / sum(heads)).item()

    assert weight() == pytest.approx(1.0)
    loss.load_state_dict({"_extra_state": {"schedule": ConstantSchedule(0.25).state_dict()}})
    assert weight() == pytest.approx(0.25)
    loss.schedule = EvolutionarySchedule(10, start=0.5)
    assert weight() == pytest.approx(0.5)
    loss.schedule.step(5)
    assert weight() == pytest.approx(0.25)


def test_a_copy_of_a_loss_follows_its_own_schedule():
    model = wrap_with_shortcuts(StatelessNet())
    loss = ShortcutLoss(model, nn.CrossEntropyLoss(), EvolutionarySchedule(10, start=1.0))
    loss(model(images()).mean(0), labels())
    twin_model, twin = copy.deepcopy((model, loss))
    graph, other = capture(model, loss), capture(twin_model, twin)
    x, y = images(), labels()
    twin.schedule.step(5)
    for run, which, expected in ((graph, loss, 1.0), (other, twin, 0.5)):
        total = run(x, y)
        main, *heads = (which.parts[name] for name in ("main", *which.weights))
        assert ((total - main) / sum(heads)).item() == pytest.approx(expected)


def test_a_step_between_a_loss_and_its_backward_pass_changes_nothing():
    model = wrap_with_shortcuts(StatelessNet())
    loss = ShortcutLoss(model, nn.CrossEntropyLoss(), EvolutionarySchedule(2, start=1.0))
    x, y = images(), labels()
    gradients = []
    for step in (False, True):
        model.zero_grad()
        total = loss(model(x).mean(0), y)
        if step:
            loss.schedule.step()
        total.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(map(torch.equal, *gradients))


def test_a_capture_without_a_step_before_is_an_error():
    model = wrap_with_shortcuts(StatelessNet(), example_input=images())
    loss = ShortcutLoss(model, nn.CrossEntropyLoss())
    loss._coefficients.kept = loss._coefficients.kept.to("meta")  # as if the model had moved
    output = model(images()).mean(0)
    with capturing_on_cpu(), pytest.raises(RuntimeError, match="run before it is captured"):
        loss(output, labels())


def test_a_schedule_that_is_stepped_inside_of_what_is_captured_is_an_error():
    model = wrap_with_shortcuts(StatelessNet())
    loss = ShortcutLoss(model, nn.CrossEntropyLoss(), EvolutionarySchedule(4))
    loss(model(images()).mean(0), labels())
    with capturing_on_cpu(), pytest.raises(RuntimeError, match="outside of what is captured"):
        loss.schedule.step()


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@gpu
@needs_gpu
@pytest.mark.parametrize("net", [StatelessNet, Net])
@pytest.mark.parametrize("head", [None, Head], ids=["default heads", "own heads"])
@pytest.mark.parametrize(("schedule", "options"), CASES)
def test_cuda_graphs_train_with_the_coefficient_of_the_epoch(schedule, options, head, net):
    graphs = pytest.importorskip("spikingjelly.activation_based._cuda_graph")
    options = {"criterion": nn.CrossEntropyLoss(), **OPTIONS[options]}
    model = wrap_with_shortcuts(net(), head=head).cuda()
    twin = copy.deepcopy(model)
    losses = [ShortcutLoss(one, schedule=SCHEDULES[schedule](), **options) for one in (model, twin)]
    run: list[Any] = []

    def captured(step: Callable[..., Any]) -> Callable[..., Any]:
        def with_reset(x: Tensor, y: Tensor) -> Tensor:
            functional.reset_net(model)
            return step(x, y)

        run.append(graphs.StaticCudaGraph(with_reset))
        return run[0]

    found = train(model, losses[0], captured, device="cuda")
    expected = train(twin, losses[1], lambda step: step, device="cuda")
    assert_alike(found, expected)
    assert run[0].stats.replays == EPOCHS * 5 - 4
