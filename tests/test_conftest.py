"""What holds for all tests."""

import torch

DRAWN = torch.rand(3)


def test_what_a_file_draws_while_it_is_collected_does_not_depend_on_other_files():
    assert torch.equal(DRAWN, torch.rand(3, generator=torch.Generator().manual_seed(0)))
