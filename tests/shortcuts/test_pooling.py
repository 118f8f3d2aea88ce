"""Averages over time and parts of space, against the plain way to write them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sj_shortcut.shortcuts.pooling import average, cells
from tests.shortcuts.tools import averages, grids, random_features, sizes, spaces


@given(shape=st.lists(st.integers(1, 5), min_size=2, max_size=5), data=st.data())
def test_groups_of_axes_are_averaged_one_after_the_other(shape, data):
    x = random_features(*shape)
    first = data.draw(st.integers(1, len(shape)))
    groups = range(first, len(shape)), (0,)
    due = x.mean(tuple(groups[0])) if groups[0] else x
    torch.testing.assert_close(average(x, *groups), due.mean(0))
    assert average(x) is x and average(x, ()) is x


@given(steps=sizes, batch=sizes, channels=sizes, space=spaces, grid=grids)
def test_parts_of_space_over_time(steps, batch, channels, space, grid):
    x = random_features(steps, batch, channels, *space)
    due = torch.stack([averages(step, grid) for step in x]).mean(0)
    parts = cells(x, 3, grid, (0,))
    torch.testing.assert_close(parts if grid > 1 else parts.reshape(due.shape), due)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_dtype_stays_and_half_precision_does_not_overflow(dtype):
    x = torch.full((3000, 2, 1), 60.0, dtype=dtype)
    averaged = average(x, (0,))
    assert averaged.dtype == dtype and (averaged == 60).all()
    assert not average(torch.full((3000, 2, 1), 1.0), (0,)).isinf().any()
