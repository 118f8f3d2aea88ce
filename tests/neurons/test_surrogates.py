import pytest
import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

from sj_shortcut.neurons.surrogates import _FALLING, AliveCounter

KNOWN = [name for name in _FALLING if hasattr(surrogate, name)]


def count(function: nn.Module, x: Tensor, threshold: float) -> int:
    """By the backward pass, at each potential."""
    leaf = x.clone().requires_grad_()
    function(leaf).sum().backward()
    return int((leaf.grad > threshold).sum())


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.1, 0.5, 5.0])
@pytest.mark.parametrize("name", [*KNOWN, "S2NN", "LeakyKReLU"])
def test_counts_what_the_backward_pass_shows(name: str, threshold: float) -> None:
    function = getattr(surrogate, name)()
    counter = AliveCounter(threshold)
    x = 2 * torch.randn(4000, generator=torch.Generator().manual_seed(0))
    grid = torch.linspace(-2, 2, 65)  # with the ends of intervals
    for potentials in (x, grid):
        assert counter(function, potentials).item() == count(function, potentials, threshold)
        assert (counter._radius(function) is None) == (name not in KNOWN or threshold == 0)


def test_each_function_has_its_own_interval() -> None:
    counter, x = AliveCounter(0.3), torch.linspace(-2, 2, 1001)
    for alpha in (1.0, 2.0, 8.0):
        function = surrogate.ATan(alpha=alpha)
        assert counter(function, x).item() == count(function, x, 0.3)
    function.alpha = 0.7
    assert counter(function, x).item() == count(function, x, 0.3)


def test_axes() -> None:
    x = torch.randn(3, 4, 5)
    counter = AliveCounter(0.3)
    for function in (surrogate.Sigmoid(), surrogate.S2NN()):
        apart = counter(function, x, (1, 2))
        assert apart.tolist() == [counter(function, part).item() for part in x]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precisions(dtype: torch.dtype) -> None:
    x = torch.randn(5000).to(dtype)
    exact = count(surrogate.ATan(), x.double(), 0.1)
    assert AliveCounter(0.1)(surrogate.ATan(), x).item() == pytest.approx(exact, abs=10)


def test_functions_that_cannot_be_differentiated() -> None:
    class Hard(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x >= 0).to(x)

    assert AliveCounter(0.1)(Hard(), torch.randn(9)).item() == 0


def test_a_learnable_function_is_looked_at_anew() -> None:
    function = surrogate.Sigmoid()
    function.alpha = nn.Parameter(torch.tensor(4.0))
    assert AliveCounter(0.1)._radius(function) is None
