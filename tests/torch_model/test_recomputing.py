import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sj_shortcut.torch_model.recomputing import without_recomputing


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.runs = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return (x * self.weight).exp()


def runs(part: Counted, reentrant: bool) -> int:
    part.runs = 0
    checkpoint(part, torch.rand(2, requires_grad=True), use_reentrant=reentrant).sum().backward()
    return part.runs


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_run_their_part_once_inside_and_twice_after(reentrant: bool) -> None:
    part = Counted()
    with without_recomputing(), without_recomputing():
        assert runs(part, reentrant) == 1
    assert runs(part, reentrant) == 2
    with pytest.raises(KeyError), without_recomputing():
        checkpoint(lambda x: {}[x], torch.rand(2), use_reentrant=reentrant)
    assert runs(part, reentrant) == 2


@pytest.mark.parametrize("reentrant", [False, True])
def test_other_threads_go_on_as_before(reentrant: bool) -> None:
    found: list[int] = []
    with without_recomputing():
        thread = threading.Thread(target=lambda: found.append(runs(Counted(), reentrant)))
        thread.start()
        thread.join()
    assert found == [2]
