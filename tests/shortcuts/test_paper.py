"""The paper's two trainings against its Eq. 6 and Eq. 10 written out by hand."""

import copy
import io
import warnings

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn
from torch.nn import functional as F

from sj_shortcut import (
    ConstantSchedule,
    EvolutionarySchedule,
    ShortcutHead,
    ShortcutLoss,
    ShortcutWarning,
    evolutionary_training,
    remove_shortcuts,
    shortcut_backpropagation,
    shortcut_branches,
    shortcut_parameters,
)
from tests.refusals import refused

T, CLASSES, SIZE = 3, 5, 8
CE = nn.CrossEntropyLoss()


@pytest.fixture(autouse=True)
def _seed_and_no_silence():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ShortcutWarning)
        yield


def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        layer.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        layer.BatchNorm2d(outputs),
        # The paper's neuron: u <- 0.5 u + c, threshold 1, hard reset to 0.
        neuron.LIFNode(2.0, False, 1.0, 0.0, surrogate_function=surrogate.ATan()),
    )


class Blocks(nn.Module):
    """Three blocks and a classifier; heads belong at the ends of the first two."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = block(3, 4, 1)
        self.block2 = block(4, 6, 2)
        self.block3 = block(6, 8, 2)
        self.fc = layer.Linear(8, CLASSES)
        functional.set_step_mode(self, "m")

    def features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = self.block1(x)
        second = self.block2(first)
        return first, second, self.block3(second)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x)[-1].mean((3, 4)))


class ByHand(nn.Module):
    """What a wrapped model computes, without anything of ours: o_N and Σ_l o_l."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        linears = [copy.deepcopy(b.head.linear) for b in shortcut_branches(wrapped).values()]
        self.branches = nn.ModuleList(linears)
        self.net = Blocks()
        plain = remove_shortcuts(copy.deepcopy(wrapped))
        self.net.load_state_dict(plain.state_dict(), strict=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        *inner, last = self.net.features(x)
        output = self.net.fc(last.mean((3, 4))).mean(0)
        # Global average pooling, then a fully connected layer, averaged over time.
        logits = [
            torch.stack([branch(step.mean((2, 3))) for step in feature]).mean(0)
            for branch, feature in zip(self.branches, inner, strict=True)
        ]
        return output, logits[0] + logits[1]


def batch(size: int = 6) -> tuple[Tensor, Tensor]:
    return 2 * torch.rand(T, size, 3, SIZE, SIZE), torch.arange(size) % CLASSES


def assert_same_gradients(model: nn.Module, by_hand: ByHand) -> None:
    heads = [branch.head.linear for branch in shortcut_branches(model).values()]
    for ours, theirs in zip(heads, by_hand.branches, strict=True):
        torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
        torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)
    of_heads = {id(p) for p in shortcut_parameters(model)}
    own = {n: p for n, p in model.named_parameters() if id(p) not in of_heads}
    expected = dict(by_hand.net.named_parameters())
    assert own.keys() == expected.keys()
    for name, parameter in own.items():
        assert parameter.grad.abs().max() > 0, name
        torch.testing.assert_close(parameter.grad, expected[name].grad, msg=name)


def test_equation_6_by_hand_with_its_gradients():
    model = Blocks()
    criterion = shortcut_backpropagation(model, CE)
    by_hand = ByHand(model)
    x, y = batch()
    loss = criterion(model(x).mean(0), y)
    loss.backward()
    output, branches = by_hand(x)
    expected = F.cross_entropy(output + branches, y)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    assert abs(loss.item() - F.cross_entropy(output, y).item()) > 1e-3  # branches count
    assert_same_gradients(model, by_hand)


@pytest.mark.parametrize("i", [0, 1, 7, 12])
def test_equation_10_by_hand_with_its_gradients(i):
    epochs, batches = 3, 5
    model = Blocks()
    criterion = evolutionary_training(model, CE, epochs)
    by_hand = ByHand(model)
    criterion.schedule.step(i // batches + i % batches / batches)
    x, y = batch()
    loss = criterion(model(x).mean(0), y)
    loss.backward()
    output, branches = by_hand(x)
    coefficient = 0.25 * (1 - i / (epochs * batches))
    expected = F.cross_entropy(output + coefficient * branches, y)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    assert_same_gradients(model, by_hand)


EPOCHS, SIZES = 3, (6, 6, 6, 2)  # the last batch of an epoch is smaller


def data(epoch: int) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(epoch)
    return [
        (2 * torch.rand(T, size, 3, SIZE, SIZE, generator=draw), torch.arange(size) % CLASSES)
        for size in SIZES
    ]


class Training:
    """A user's loop, at iteration i, that can be saved and resumed anywhere."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Blocks()
        self.criterion = evolutionary_training(self.model, CE, EPOCHS)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.05, 0.9)
        self.i = 0
        self.coefficients: list[float] = []

    def run(self, until: int) -> None:
        while self.i < until:
            epoch, index = divmod(self.i, len(SIZES))
            x, y = data(epoch)[index]
            self.coefficients.append(self.criterion.schedule.coefficient)
            loss = self.criterion(self.model(x).mean(0), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            functional.reset_net(self.model)
            self.criterion.schedule.step(epoch + (index + 1) / len(SIZES))
            self.i += 1

    def saved(self) -> io.BytesIO:
        parts = (self.model, self.criterion, self.optimizer)
        file = io.BytesIO()
        torch.save([*(part.state_dict() for part in parts), self.i], file)
        file.seek(0)
        return file

    def load(self, file: io.BytesIO) -> None:
        model, criterion, optimizer, self.i = torch.load(file, weights_only=True)
        self.model.load_state_dict(model)
        self.criterion.load_state_dict(criterion)
        self.optimizer.load_state_dict(optimizer)


def test_coefficient_at_every_iteration_with_a_smaller_last_batch_and_resumed_in_the_middle():
    iterations = EPOCHS * len(SIZES)
    expected = [0.25 * (1 - i / iterations) for i in range(iterations)]
    whole = Training()
    whole.run(iterations)
    assert whole.coefficients == pytest.approx(expected, abs=1e-12)
    assert whole.criterion.schedule.coefficient == 0

    begun = Training()
    begun.run(6)  # in the middle of the second epoch
    resumed = Training()
    resumed.load(begun.saved())
    resumed.run(iterations)
    assert begun.coefficients + resumed.coefficients == whole.coefficients
    state, other = whole.model.state_dict(), resumed.model.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_a_whole_training_is_the_one_by_hand():
    iterations = EPOCHS * len(SIZES)
    ours = Training()
    by_hand = ByHand(ours.model)
    optimizer = torch.optim.SGD(by_hand.parameters(), 0.05, 0.9)
    ours.run(iterations)
    for i in range(iterations):
        x, y = data(i // len(SIZES))[i % len(SIZES)]
        output, branches = by_hand(x)
        optimizer.zero_grad()
        F.cross_entropy(output + 0.25 * (1 - i / iterations) * branches, y).backward()
        optimizer.step()
        functional.reset_net(by_hand)
    trained = remove_shortcuts(ours.model).state_dict()
    for name, value in by_hand.net.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("make", "schedule"),
    [
        (shortcut_backpropagation, ConstantSchedule(1.0)),
        (lambda *args, **options: evolutionary_training(*args, 7, **options), None),
    ],
)
def test_heads_and_options_are_the_papers_unless_asked_otherwise(make, schedule):
    model = Blocks()
    criterion = make(model, CE)
    assert isinstance(criterion, ShortcutLoss) and criterion.combine == "logits"
    expected = schedule or EvolutionarySchedule(7, start=0.25, hold=0.0)
    assert criterion.schedule.state_dict() == expected.state_dict()
    heads = shortcut_branches(model)
    assert list(heads) == ["block1.2", "block2.2"]
    assert [head.head.grid for head in heads.values()] == [1, 1]

    model = Blocks()
    criterion = make(
        model, CE, at=["block2"], per_step=True, num_classes=CLASSES, head=lambda c, k: Wide(c, k)
    )
    assert list(shortcut_branches(model)) == ["block2"] and criterion.per_step
    assert isinstance(next(iter(shortcut_branches(model).values())).head, Wide)


class Wide(ShortcutHead):
    """A head of the user's own."""


def test_errors_leave_the_model_as_it_was():
    model = Blocks()
    before = list(model.state_dict())
    with refused(ValueError, "epochs must be above 0, not 0."):
        evolutionary_training(model, CE, 0)
    with pytest.raises(ValueError, match="nowhere"):
        shortcut_backpropagation(model, CE, at="nowhere")
    with pytest.raises(TypeError, match="must be callable"):
        shortcut_backpropagation(model, 3)
    with pytest.raises(TypeError, match="per_step"):
        shortcut_backpropagation(model, CE, per_step=1)
    assert list(model.state_dict()) == before
