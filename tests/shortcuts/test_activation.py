"""Which activation an output went through, found in its graph."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sj_shortcut.shortcuts.activation import activation_behind

T, N, K = 2, 3, 4
ACTIVATIONS = {
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "softmax": lambda x: torch.softmax(x, -1),
    "log of softmax": lambda x: torch.softmax(x, -1).log(),
    "sigmoid": torch.sigmoid,
    "logsigmoid": nn.functional.logsigmoid,
    "log of sigmoid": lambda x: torch.sigmoid(x).log(),
    "tanh": torch.tanh,
    "exp": torch.exp,
    "softplus": nn.functional.softplus,
    "relu": torch.relu,
}
# What may come between an activation and the loss.
BETWEEN = [
    lambda x: x.mean(0, keepdim=True),
    lambda x: x.sum(0, keepdim=True) / T,
    lambda x: 0.5 * x,
    lambda x: x.clamp(min=1e-6),
    lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    lambda x: torch.stack(list(x.unbind(0))),
    lambda x: torch.cat([x[:1], x[1:]]),
    lambda x: x.reshape(-1, K).reshape(x.shape),
    lambda x: x[:, :2],
    lambda x: x.amax(0, keepdim=True),
]


def logits(seed: int = 0) -> Tensor:
    return torch.randn(T, N, K, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(between=st.lists(st.sampled_from(BETWEEN), max_size=4))
def test_it_is_found_whatever_comes_between(name, between):
    output = ACTIVATIONS[name](logits())
    for change in between:
        output = change(output)
    found = activation_behind(output, nn.MSELoss())
    heads = logits(1)[0].detach()
    torch.testing.assert_close(found(heads), ACTIVATIONS[name](heads))


@given(between=st.lists(st.sampled_from(BETWEEN), max_size=4))
def test_logits_need_none(between):
    output = nn.functional.linear(logits(), torch.eye(K), torch.ones(K))
    for change in between:
        output = change(output)
    assert activation_behind(output, nn.MSELoss()) is None


def test_parts_must_agree():
    x = logits()
    both = torch.stack([torch.sigmoid(x[0]), torch.sigmoid(x[1])])
    assert activation_behind(both, nn.MSELoss())(torch.zeros(1)) == 0.5
    assert activation_behind(torch.stack([x[0].sigmoid(), x[1].tanh()]), nn.MSELoss()) is None


def test_a_gate_is_a_part_of_the_network():
    x = logits()
    assert activation_behind(x.tanh() * x.sigmoid(), nn.MSELoss()) is None
    assert activation_behind(x.relu() / x.exp(), nn.MSELoss()) is None


@pytest.mark.parametrize("name", ["log_softmax", "softmax", "relu"])
def test_a_criterion_may_say_by_itself_what_it_takes(name):
    output, heads = ACTIVATIONS[name](logits()), logits(1)[0].detach()
    functions = nn.functional
    assert activation_behind(output, nn.CrossEntropyLoss()) is None
    assert activation_behind(output, nn.BCEWithLogitsLoss()) is None
    assert activation_behind(output, functions.cross_entropy) is None
    assert activation_behind(output, functions.binary_cross_entropy_with_logits) is None
    assert activation_behind(output, partial(functions.cross_entropy, label_smoothing=0.1)) is None
    torch.testing.assert_close(
        activation_behind(output, functions.nll_loss)(heads), torch.log_softmax(heads, -1)
    )
    torch.testing.assert_close(
        activation_behind(output, nn.NLLLoss())(heads), torch.log_softmax(heads, -1)
    )


def test_an_output_without_a_graph_tells_nothing():
    assert activation_behind(logits().detach().sigmoid(), nn.MSELoss()) is None
