"""Pairing inside compiled code; whole trainings are in tests/interop/test_compiled.py."""

import pytest
import torch
from torch import Tensor

from sj_shortcut.shortcuts.compiled import (
    heads_of_this_trace,
    mark_join,
    outside_of_the_graph,
    this_trace,
)
from sj_shortcut.shortcuts.forwards import Forwards, Record
from sj_shortcut.shortcuts.join import join


@pytest.fixture(autouse=True)
def _no_code_from_before():
    torch.compiler.reset()


def forward(forwards: Forwards, x: Tensor) -> Tensor:
    """What hooks do of a model that is ``2 * x``, with a head that is ``3 * x``."""
    record = Record(forwards, graded=True)
    record.trace = this_trace()
    record.add("a", 3 * x, 1, timed=True)
    forwards.keep_compiled(record)
    joined = join(2 * x, record, 0)
    mark_join(joined, record)
    return joined


def test_logits_of_the_same_trace_are_found():
    forwards = Forwards(names=["a"])

    @torch.compile(backend="aot_eager", fullgraph=True)
    def run(x: Tensor) -> Tensor:
        found = heads_of_this_trace(forward(forwards, x) + 1, forwards)
        assert found is not None
        return found["a"]

    for _ in range(2):
        x = torch.rand(2, 3, requires_grad=True)
        assert torch.equal(run(x), 3 * x)
    assert forwards.compiled.used


def test_logits_of_another_size_are_not():
    forwards = Forwards(names=["a"])

    @torch.compile(backend="aot_eager", fullgraph=True)
    def run(x: Tensor) -> bool:
        return heads_of_this_trace(forward(forwards, x)[:1], forwards) is None

    assert run(torch.rand(2, 3, requires_grad=True))


def test_those_of_an_earlier_forward_are_told():
    forwards = Forwards(names=["a"])

    @torch.compile(backend="aot_eager")
    def run(x: Tensor) -> Tensor:
        first = forward(forwards, x)
        forward(forwards, x + 1)
        return heads_of_this_trace(first, forwards)["a"]

    with pytest.raises(RuntimeError, match="comes from an earlier forward"):
        run(torch.rand(2, 3, requires_grad=True))


def test_outside_of_the_graph_tensors_have_theirs():
    @torch.compile(backend="aot_eager")
    def run(x: Tensor) -> Tensor:
        return x + outside_of_the_graph(lambda y: int(y.grad_fn is not None), 2 * x)

    assert torch.equal(run(torch.ones(1, requires_grad=True)), torch.tensor([2.0]))
