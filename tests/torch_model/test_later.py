import pytest
import torch

from sj_shortcut.torch_model.later import Later


def test_what_is_on_the_cpu_is_there_at_once() -> None:
    found = Later(torch.tensor([True, False])).read()
    assert found is not None and found.tolist() == [True, False]


@pytest.mark.gpu
def test_what_is_on_a_gpu_is_there_when_the_gpu_got_there() -> None:
    x = torch.rand(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    for _ in range(50):
        x = x @ x / 4096
    later = Later(torch.stack([x.sum() >= 0, x.sum() < 0]))
    torch.cuda.synchronize()
    found = later.read()
    assert found is not None and found.tolist() == [True, False]
