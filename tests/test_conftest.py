"""What holds for all tests."""

import torch

from tests.conftest import HERE, ON_ONE

DRAWN = torch.rand(3)


def test_what_a_file_draws_while_it_is_collected_does_not_depend_on_other_files():
    assert torch.equal(DRAWN, torch.rand(3, generator=torch.Generator().manual_seed(0)))


def test_what_is_left_out_on_one_generation_names_what_there_is():
    assert all((HERE / room / name).exists() for room, names in ON_ONE.items() for name in names)
