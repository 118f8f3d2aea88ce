"""Where the gradient of a part of the output arrives."""

import torch
from torch import nn

from sj_shortcut.places.example_pass import run_pass, untouched
from sj_shortcut.places.support import are_apart, both_ends, gradients, support


class Aside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.aside = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.aside(x)
        return self.used(x)


def test_samples_are_apart_and_classes_are_not() -> None:
    model = Aside()
    with untouched(model):
        seen = run_pass(model, (torch.rand(4, 3),), {}, lambda module: False)
        first, last = both_ends(seen, seen.output, 0)
        assert first["used"] == [{0}, {0, 1}] and last["used"] == [{3}, {0, 1}]
        assert are_apart(first, last)
        assert support(seen, seen.output[1:3])["used"] == [{1, 2}, {0, 1}]
        assert "aside" not in gradients(seen, seen.output)
        assert gradients(seen, torch.zeros(2)) == {}
        assert not are_apart(first, first) and not are_apart({}, {})
