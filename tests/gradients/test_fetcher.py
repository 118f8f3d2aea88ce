import math

import torch

from sj_shortcut.gradients.fetcher import Fetcher


def test_tensors_of_every_type_come_back_as_they_were_asked_for() -> None:
    tensors = [
        torch.tensor(1e-300, dtype=torch.float64),
        torch.tensor(2**40 + 1),
        torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        torch.tensor(0.5, requires_grad=True),
        torch.tensor([]),
    ]
    fetcher = Fetcher()
    for tensor in [*tensors, *tensors]:
        fetcher.add(tensor)
    fetcher.fetch()
    assert [fetcher.values(tensor) for tensor in tensors] == [
        [1e-300], [2**40 + 1], [1.0, 2.0, 3.0, 4.0], [0.5], []
    ]  # fmt: skip
    assert fetcher.value(tensors[1]) == 2**40 + 1


def test_what_is_not_there_is_not_a_number() -> None:
    fetcher = Fetcher()
    fetcher.add(None)
    fetcher.fetch()
    assert math.isnan(fetcher.value(None)) and fetcher.values(None) == []
