"""All losses in one call are what one call each gives, and so are their gradients."""

import copy

import pytest
import torch
from torch import Tensor, nn

from sj_shortcut.shortcuts.stacked_loss import stacked_losses

N, K, STEPS, HEADS = 6, 5, 3, 4
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.25, 3.0])
INDICES = torch.tensor([0, 4, 2, 2, 1, 3])
WITH_IGNORED = torch.tensor([0, -100, 2, 2, -100, 3])


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


PROBABILITIES = numbers(N, K).softmax(1)
CASES = {
    "classes": (nn.CrossEntropyLoss(), INDICES),
    "ignored": (nn.CrossEntropyLoss(), WITH_IGNORED),
    "another ignored": (nn.CrossEntropyLoss(ignore_index=2), INDICES),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), WITH_IGNORED),
    "smoothed": (nn.CrossEntropyLoss(label_smoothing=0.1), WITH_IGNORED),
    "weighted": (nn.CrossEntropyLoss(WEIGHTS), WITH_IGNORED),
    "weighted, smoothed": (nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1), WITH_IGNORED),
    "probabilities": (nn.CrossEntropyLoss(), PROBABILITIES),
    "weighted probabilities": (nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1), PROBABILITIES),
    "log-probabilities": (nn.NLLLoss(WEIGHTS), WITH_IGNORED),
    "squares": (nn.MSELoss(), PROBABILITIES),
    "sum of squares": (nn.MSELoss(reduction="sum"), PROBABILITIES),
    "absolute": (nn.L1Loss(), PROBABILITIES),
    "smooth": (nn.SmoothL1Loss(beta=0.3), PROBABILITIES),
    "binary": (nn.BCEWithLogitsLoss(pos_weight=WEIGHTS), PROBABILITIES),
    "divergence": (nn.KLDivLoss(reduction="batchmean"), PROBABILITIES),
    "log divergence": (nn.KLDivLoss(reduction="sum", log_target=True), PROBABILITIES.log()),
}


def logits_of(steps: int) -> list[Tensor]:
    shape = (HEADS, steps, N, K) if steps else (HEADS, N, K)
    return [x.clone().requires_grad_() for x in numbers(*shape).log_softmax(-1)]


def one_by_one(criterion: nn.Module, logits: list[Tensor], target: Tensor) -> Tensor:
    each = []
    for x in logits:
        steps = x if x.ndim == 3 else x[None]
        each.append(torch.stack([criterion(step, target) for step in steps]).mean())
    return torch.stack(each)


@pytest.mark.parametrize("steps", [0, STEPS], ids=["averaged", "per step"])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_one_call_each(case, steps):
    criterion, target = CASES[case]
    results = []
    for losses_of in (one_by_one, stacked_losses):
        logits = logits_of(steps)
        losses = losses_of(criterion, logits, target)
        (losses * torch.tensor([1.0, 0.3, 0.7, 0.5])).sum().backward()
        results.append((losses.detach(), [x.grad for x in logits]))
    torch.testing.assert_close(results[1], results[0], rtol=3e-7, atol=1e-8)


@pytest.mark.parametrize("case", ["classes", "squares", "absolute", "probabilities"])
def test_gradients_of_weight_one_are_equal_to_the_bit(case):
    criterion, target = CASES[case]
    results = []
    for losses_of in (one_by_one, stacked_losses):
        logits = logits_of(0)
        losses_of(criterion, logits, target).sum().backward()
        results.append(torch.stack([x.grad for x in logits]))
    assert torch.equal(*results)


class MyLoss(nn.CrossEntropyLoss):
    pass


def hooked() -> nn.Module:
    criterion = nn.CrossEntropyLoss()
    criterion.register_forward_hook(lambda module, args, output: 2 * output)
    return criterion


@pytest.mark.parametrize(
    ("criterion", "target"),
    [
        (nn.functional.cross_entropy, INDICES),
        (MyLoss(), INDICES),
        (hooked(), INDICES),
        (nn.CrossEntropyLoss(reduction="none"), INDICES),
        (nn.HuberLoss(), PROBABILITIES),
        (nn.MSELoss(), PROBABILITIES[:1]),
        (nn.MSELoss(), 1),
        (nn.NLLLoss(), PROBABILITIES),
    ],
    ids=["function", "subclass", "hook", "none", "other", "broadcast", "number", "misfit"],
)
def test_what_is_left_to_one_call_each(criterion, target):
    assert stacked_losses(criterion, logits_of(0), target) is None


def test_the_criterion_stays_as_it_is():
    criterion = nn.CrossEntropyLoss(WEIGHTS)
    before = copy.copy(vars(criterion))
    stacked_losses(criterion, logits_of(0), INDICES)
    assert vars(criterion) == before


def test_no_rows_are_left_to_the_criterion_which_gives_nan():
    empty = [torch.zeros(0, K), torch.zeros(0, K)]
    assert stacked_losses(nn.CrossEntropyLoss(), empty, torch.zeros(0, dtype=torch.long)) is None


def test_logits_of_different_kinds_are_left_to_one_call_each():
    logits = [torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.float64)]
    assert stacked_losses(nn.CrossEntropyLoss(), logits, torch.tensor([0, 1])) is None
