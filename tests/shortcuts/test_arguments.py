"""What a loss is made of and given; messages are in tests/behaviour/test_bad_input.py."""

import pytest
import torch
from torch import nn

from sj_shortcut import ConstantSchedule, HandoverSchedule
from sj_shortcut.shortcuts.arguments import check_options, check_shapes

CE, MSE = nn.CrossEntropyLoss(), nn.MSELoss()


def test_options_that_fit():
    check_options(CE, None, "loss", False)
    check_options(CE, HandoverSchedule(), "loss", True)
    check_options(lambda output, target: output.sum(), ConstantSchedule(), "logits", False)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ((None, None, "loss", False), TypeError),
        ((nn.CrossEntropyLoss, None, "loss", False), TypeError),
        ((CE, 1.0, "loss", False), TypeError),
        ((CE, None, "sum", False), ValueError),
        ((CE, HandoverSchedule(), "logits", False), ValueError),
        ((CE, None, "loss", 1), TypeError),
    ],
)
def test_options_that_do_not(options, error):
    with pytest.raises(error):
        check_options(*options)


def test_shapes_that_fit():
    output = torch.zeros(3, 4)
    check_shapes(output, torch.zeros(3, dtype=torch.long), CE, False)
    check_shapes(output, torch.zeros(3, 4), MSE, False)
    check_shapes(output.expand(2, 3, 4), torch.zeros(3, 4), MSE, True)
    check_shapes(output, torch.zeros(7), lambda output, target: output, False)


@pytest.mark.parametrize(
    ("output", "target", "criterion", "per_step"),
    [
        (torch.zeros(3, 4), torch.zeros(4, dtype=torch.long), CE, False),
        (torch.zeros(3, 4), torch.zeros(3), MSE, False),
        (torch.zeros(2, 3, 4), torch.zeros(3, dtype=torch.long), CE, False),
        (torch.zeros(3, 4), torch.zeros(3, dtype=torch.long), CE, True),
    ],
)
def test_shapes_that_do_not(output, target, criterion, per_step):
    with pytest.raises(ValueError):
        check_shapes(output, target, criterion, per_step)


def test_an_output_that_is_no_tensor():
    with pytest.raises(TypeError, match="got list"):
        check_shapes([1.0], None, CE, False)
