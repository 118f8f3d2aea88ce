"""A training step waits for no value on the device, however the model is trained."""

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sj_shortcut import (
    ConstantSchedule,
    EvolutionarySchedule,
    ShortcutLoss,
    shortcut_logits,
    wrap_with_shortcuts,
)
from tests.nets.small import CLASSES, Net, images, labels

STEPS = 20  # beyond the first steps, in which slips are looked for


class Waits(TorchDispatchMode):
    """Collects operations whose result, or its size, the program waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.equal,
            torch.ops.aten.nonzero,
            torch.ops.aten.masked_select,
            torch.ops.aten._unique2,
        ):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


class Head(nn.Module):
    """A head of the user's own, which runs at its point."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.square())


def own_criterion(logits: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(2 * logits, target)


CE = nn.CrossEntropyLoss()
CRITERIA = {
    "CE": CE,
    "smooth": nn.CrossEntropyLoss(label_smoothing=0.1),
    "weighted": nn.CrossEntropyLoss(torch.arange(1.0, CLASSES + 1), ignore_index=0),
    "NLL": nn.NLLLoss(),
    "MSE": nn.MSELoss(),
    "sum": nn.BCEWithLogitsLoss(reduction="sum"),
    "own": own_criterion,
}
ONE_HOT = ("MSE", "sum")
OPTIONS = {
    "constant": {"schedule": ConstantSchedule(0.5)},
    "falling": {"schedule": EvolutionarySchedule(3)},
    "logits": {"combine": "logits"},
    "per step": {"per_step": True},
    "one head off": {"weights": [0.0, 1.0]},
}


def waits_of(criterion: ShortcutLoss, model: nn.Module, mode: str = "m", one_hot: bool = False):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = images(), labels()
    target = nn.functional.one_hot(y, CLASSES).float() if one_hot else y

    def step() -> None:
        optimizer.zero_grad()
        output = model(x) if mode == "m" else torch.stack([model(now) for now in x])
        criterion(output if criterion.per_step else output.mean(0), target).backward()
        optimizer.step()
        functional.reset_net(model)

    step()  # the first batch is looked at
    with Waits() as waits:
        for _ in range(STEPS):
            step()
    return waits.found


@pytest.mark.parametrize("mode", ["m", "s"])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_step_waits_for_nothing_with_any_option(options, mode):
    model = wrap_with_shortcuts(Net(mode))
    assert waits_of(ShortcutLoss(model, CE, **OPTIONS[options]), model, mode) == []


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_step_waits_for_nothing_with_any_criterion(criterion):
    model = wrap_with_shortcuts(Net())
    loss = ShortcutLoss(model, CRITERIA[criterion])
    assert waits_of(loss, model, one_hot=criterion in ONE_HOT) == []


def test_a_step_waits_for_nothing_with_heads_of_ones_own():
    model = wrap_with_shortcuts(Net(), head=Head)
    assert waits_of(ShortcutLoss(model, CE), model) == []


def test_a_step_waits_for_nothing_in_half_precision():
    model = wrap_with_shortcuts(Net())
    with torch.autocast("cpu", torch.bfloat16):
        assert waits_of(ShortcutLoss(model, CE), model) == []


def test_a_step_waits_for_nothing_with_a_loss_of_ones_own():
    model = wrap_with_shortcuts(Net())
    model(images())  # looked at
    functional.reset_net(model)
    with Waits() as waits:
        output = model(images()).mean(0)
        heads = shortcut_logits(model).values()
        (CE(output, labels()) + sum(CE(logits, labels()) for logits in heads)).backward()
    assert waits.found == []


def test_what_waits_is_seen():
    model = wrap_with_shortcuts(Net())

    def asks(logits: Tensor, target: Tensor) -> Tensor:
        loss = CE(logits, target)
        return loss if loss.item() > 0 else 0 * loss

    assert set(waits_of(ShortcutLoss(model, asks), model)) == {"aten._local_scalar_dense.default"}
