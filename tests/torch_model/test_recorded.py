"""Whether code is compiled, or captured as a CUDA graph."""

import pytest
import torch

from sj_shortcut.torch_model.recorded import is_captured, is_recorded


def test_python_that_runs_is_not_recorded():
    assert not is_captured(torch.zeros(1)) and not is_recorded(torch.zeros(1))


def test_compiled_code_is():
    @torch.compile(backend="eager", fullgraph=True)
    def asks(x: torch.Tensor) -> torch.Tensor:
        return x + (1 if is_recorded(x) else 0) + (2 if is_captured(x) else 0)

    assert asks(torch.zeros(1)).item() == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_graph_is():
    x = torch.zeros(1, device="cuda")
    assert not is_captured(x)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        x += 1
        found = is_captured(x), is_recorded(x), is_captured(torch.zeros(1))
    assert found == (True, True, False)
