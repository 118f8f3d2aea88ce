"""What an interrupt leaves of PyTorch's modes."""

import pytest
import torch
from torch import nn

from sj_shortcut.torch_model import modes_after_interrupts


def stale(weight: torch.Tensor) -> bool:
    """Whether autocast goes by what it cast of a weight before that changed."""
    results = []
    for value in (1.0, 2.0):
        with torch.no_grad():
            weight.fill_(value)
        with torch.autocast("cpu", torch.bfloat16):
            results.append(nn.functional.linear(weight, weight).item())
    return results != [1, 4]


def enter_without_an_end() -> None:
    torch.autocast("cpu", torch.bfloat16, enabled=not torch.is_autocast_enabled("cpu")).__enter__()
    torch.set_grad_enabled(not torch.is_grad_enabled())
    raise KeyboardInterrupt


@pytest.mark.parametrize("casts", [False, True])
@pytest.mark.parametrize("records", [False, True])
def test_they_are_as_they_were(casts, records):
    with torch.autocast("cpu", torch.bfloat16, enabled=casts), torch.set_grad_enabled(records):
        with pytest.raises(KeyboardInterrupt), modes_after_interrupts("cpu"):
            enter_without_an_end()
        assert torch.is_autocast_enabled("cpu") is casts
        assert torch.is_grad_enabled() is records
    assert torch.is_grad_enabled()
    assert not stale(torch.ones(1, 1, requires_grad=True))


def test_without_an_interrupt_nothing_is_done():
    with modes_after_interrupts("cpu"):
        torch.set_grad_enabled(False)
    assert not torch.is_grad_enabled()
    torch.set_grad_enabled(True)
