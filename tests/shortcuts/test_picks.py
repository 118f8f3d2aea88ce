"""Picks of rows and classes, read off the graph and done again on the logits of heads."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sj_shortcut.shortcuts.join import records_behind
from sj_shortcut.shortcuts.picks import picks_behind

T, N, K = 3, 5, 4


ROWS = {
    "mask": lambda x: x[torch.arange(len(x)) % 2 == 0],
    "order": lambda x: x[torch.arange(len(x)).flip(0)],
    "repeated": lambda x: x[[0, 0, -1]],
    "first half": lambda x: x.chunk(2)[0],
    "last split": lambda x: x.split([1, len(x) - 1])[1] if len(x) > 1 else x,
    "last two": lambda x: x[-2:],
    "every second": lambda x: x[::2],
    "all": lambda x: x[:],
    "flip": lambda x: x.flip(0),
    "roll": lambda x: x.roll(1, 0),
    "index_select": lambda x: x.index_select(0, torch.arange(len(x)).roll(1)),
    "classes turned": lambda x: x.flip(1),
    "classes rolled": lambda x: x.roll(-1, 1),
    "classes in order": lambda x: x[:, [-1, 0, 0]],
    "classes but the last": lambda x: x[:, : max(1, x.shape[1] - 1)],
}


def outputs(*shape: int) -> Tensor:
    """What a model gave: no leaf, as leaves have no graph to read."""
    return torch.arange(float(torch.tensor(shape).prod())).reshape(shape).requires_grad_() * 1


def read(output: Tensor, rows: set[int]):
    return picks_behind(output, records_behind(output)[1], rows)


@given(names=st.lists(st.sampled_from(sorted(ROWS)), max_size=4), seed=st.integers(0, 9))
def test_picks_behind_each_other_are_done_again(names, seed):
    def change(x: Tensor) -> Tensor:
        for name in names:
            x = ROWS[name](x)
        return x

    samples, pick = read(change(outputs(N, K)), {N})
    assert samples == N
    generator = torch.Generator().manual_seed(seed)
    heads = torch.rand(T, N, K, generator=generator)
    assert torch.equal(pick(heads[0]), change(heads[0]))
    assert torch.equal(pick(heads), torch.stack([change(step) for step in heads]))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[1:].mean(0),
        lambda x: x[-1],
        lambda x: x.flip(0).mean(0),
        lambda x: x.roll(1, 0).sum(0),
        lambda x: x.split([1, 2])[1].mean(0),
        lambda x: x[[0, 2]].mean(0),
        lambda x: sum(x.unbind(0)) / T,
        lambda x: 2 * x.mean(0) + 1,
    ],
)
def test_picks_of_time_steps_leave_rows_alone(change):
    samples, pick = read(change(outputs(T, N, K)), {N})
    heads = torch.rand(N, K)
    assert samples == N and torch.equal(pick(heads), heads)


@pytest.mark.parametrize("shape", [(T, N, K), (N, T, K)])
def test_rows_are_picked_on_either_side_of_time(shape):
    axis = shape.index(N)
    samples, pick = read(outputs(*shape).narrow(axis, 1, 3).mean(1 - axis), {N})
    heads = torch.rand(N, K)
    assert samples == N and torch.equal(pick(heads), heads[1:4])


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.sort(0).values,
        lambda x: x.topk(2, 0).values,
        lambda x: x.gather(0, torch.zeros(N, K, dtype=torch.long)),
        lambda x: x.select(0, 1)[None],
        lambda x: x.roll(3),
        lambda x: x[torch.arange(3), torch.arange(3)][None],
        lambda x: torch.cat([x[2:], x[:2]]),
    ],
    ids=["sort", "topk", "gather", "select", "roll of all", "pairs", "parts"],
)
def test_what_cannot_be_followed_is_told(change):
    with pytest.raises(RuntimeError, match="picked or moved .* pick in the criterion"):
        read(change(outputs(N, K)), {N})
