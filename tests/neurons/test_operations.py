import torch

from sj_shortcut.neurons import operations
from sj_shortcut.neurons.operations import Operations, operations_of

aten = torch.ops.aten


def test_spikes_are_accumulates_and_all_else_is_multiplied() -> None:
    spikes, real, weight = torch.eye(4), torch.rand(4, 4) + 0.5, torch.rand(4, 3) + 0.5
    bias = torch.rand(3)
    call = (aten.addmm.default, (bias, spikes, weight), {}, spikes @ weight)
    assert operations_of(*call) == Operations(12, 0, 48)
    call = (aten.addmm.default, (bias, real, weight), {}, real @ weight)
    assert operations_of(*call) == Operations(0, 48, 48)


def test_other_operators_have_none() -> None:
    x = torch.rand(2, 3)
    assert operations_of(aten.add.Tensor, (x, x), {}, x + x) is None
    norm = (x, None, None, None, None, True, 0.1, 1e-5)
    assert operations_of(aten.native_batch_norm.default, norm, {}, (x, x, x)) is None


def test_without_an_op_counter_the_counts_are_the_same(monkeypatch) -> None:
    x, weight = (torch.rand(2, 3, 5, 5) < 0.4).float(), torch.rand(4, 3, 3, 3) + 0.1
    args = (x, weight, None, [2, 1], [1, 0], [1, 1], False, [0, 0], 1)
    call = (aten.convolution.default, args, {}, aten.convolution.default(*args))
    before = operations_of(*call)
    monkeypatch.setattr(operations, "op_counter", None)
    assert operations_of(*call) == before
    assert before.synops > 0 and before.macs == 0
