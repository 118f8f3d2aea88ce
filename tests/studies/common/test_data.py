"""The data of the studies."""

import torch

from analysis.common.data import load


def test_digits_are_split_by_class_without_overlap() -> None:
    x, y, test_x, test_y = load("digits")
    assert len(x) + len(test_x) == 1797
    share = torch.bincount(test_y) / (torch.bincount(test_y) + torch.bincount(y))
    assert share.sub(0.2).abs().max() < 0.01
