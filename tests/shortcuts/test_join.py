"""How outputs carry the records of their forwards."""

import torch
from torch import Tensor

from sj_shortcut.shortcuts.forwards import Forwards, Record
from sj_shortcut.shortcuts.join import join, records_behind
from tests.shortcuts.test_forwards import K, N, record_of


def joined(weights: Tensor, index: int = 0) -> tuple[Tensor, Record]:
    record = record_of(Forwards())
    return join(weights * 1, record, index), record


def test_joining_changes_neither_values_nor_gradients():
    weights = torch.rand(N, K, requires_grad=True)
    output, record = joined(weights)
    (logits,) = record.all_logits()
    logits.retain_grad()
    assert torch.equal(output, weights)
    output /= 2  # it is no view
    assert not record.spent
    output.sum().backward()
    assert torch.equal(weights.grad, torch.full((N, K), 0.5)) and logits.grad is None
    assert record.spent


def test_an_output_leads_back_to_its_forwards_in_the_order_of_its_terms():
    weights = torch.rand(N, K, requires_grad=True)
    (first, a), (second, b) = joined(weights, 1), joined(weights)
    alone, passed = records_behind(first.mean(0))
    assert alone == [(a, 1)] and first.grad_fn in passed
    assert first.grad_fn.next_functions[0][0] not in passed  # not behind it
    assert records_behind(torch.cat([second, first, second]))[0] == [(b, 0), (a, 1)]
    assert records_behind(first.detach())[0] == [] == records_behind(weights * 2)[0]


def test_outputs_of_compiled_code_are_known_by_the_node_that_logits_came_from():
    both = torch.rand(2, N, K, requires_grad=True).unbind(0)  # one node, as of compiled code
    forwards = Forwards()
    record = Record(forwards, graded=True)
    record.add("a", both[1], 1, False)
    assert records_behind(2 * both[0], [record])[0] == [(record, None)]
    assert records_behind(2 * both[0])[0] == []


def test_outputs_of_compiled_code_in_pieces_are_known_by_the_node_of_their_end():
    forwards = Forwards()
    record = Record(forwards, graded=True)
    record.add("a", torch.rand(N, K, requires_grad=True) * 1, 1, False)  # of another piece
    output, end = torch.rand(2, N, K, requires_grad=True).unbind(0)
    assert records_behind(output, [record])[0] == []
    record.end = end
    output = output + 1
    assert records_behind(output, [record])[0] == [(record, None)]
