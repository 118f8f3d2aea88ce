"""Our counts of operations, against SpikingJelly's where it has them and against brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sj_shortcut.neurons.operations import has_op_counter, operations_of
from sj_shortcut.neurons.products import (
    PRODUCTS,
    dense_operations,
    is_binary,
    spike_operations,
)

aten = torch.ops.aten


class Products(TorchDispatchMode):
    """Keeps every product that runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if func in PRODUCTS:
            self.calls.append((func, args, kwargs or {}, output))
        return output


@torch.no_grad()
def products_of(module: nn.Module, x: torch.Tensor) -> list[tuple]:
    with Products() as found:
        module(x)
    return found.calls


def by_hand(module: nn.Module, x: torch.Tensor) -> int:
    """One more for each weight that an input of 1 meets: the output of weights that are all 1."""
    ones = type(module).__new__(type(module))
    ones.__dict__.update(module.__dict__)
    ones._parameters = {"weight": torch.ones_like(module.weight), "bias": None}
    return round(float(ones(x).double().sum()))


@st.composite
def convolutions(draw) -> tuple[nn.Module, torch.Tensor]:
    """A convolution of any kind, and spikes for it."""
    axes = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 2))
    channels = [groups * draw(st.integers(1, 3)) for _ in range(2)]
    each = st.tuples(*[st.integers(1, 3)] * axes)
    kernel, stride, dilation = draw(each), draw(each), draw(each)
    padding = tuple(draw(st.integers(0, 2)) for _ in range(axes))
    transposed = draw(st.booleans())
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d) if transposed else (
        nn.Conv1d, nn.Conv2d, nn.Conv3d
    )  # fmt: skip
    if transposed:
        padding = tuple(
            min(p, d * (k - 1)) for p, d, k in zip(padding, dilation, kernel, strict=True)
        )
    module = kinds[axes - 1](
        *channels,
        kernel,
        stride,
        padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
    )
    size = [d * (k - 1) + draw(st.integers(1, 4)) for d, k in zip(dilation, kernel, strict=True)]
    torch.manual_seed(draw(st.integers(0, 999)))
    return module, (torch.rand(2, channels[0], *size) < 0.3).float()


@settings(max_examples=60)
@given(convolutions())
def test_spikes_through_any_convolution(drawn) -> None:
    module, spikes = drawn
    ((func, args, kwargs, output),) = products_of(module, spikes)
    assert spike_operations(func, args, output) == by_hand(module, spikes)
    ((func, args, kwargs, output),) = products_of(module, torch.rand_like(spikes) + 0.1)
    assert spike_operations(func, args, output) is None
    places = args[0].shape[2:] if args[6] else output.shape[2:]
    assert dense_operations(func, args, output) == 2 * places.numel() * module.weight.numel()


@pytest.mark.skipif(not has_op_counter(), reason="needs SpikingJelly 2.0.0")
@settings(max_examples=60)
@given(convolutions(), st.booleans(), st.booleans())
def test_the_same_as_spikingjelly_counts_convolutions(drawn, binary_x, binary_weight) -> None:
    module, x = drawn
    if binary_weight:
        module.weight.data = (module.weight > 0).float()
    if not binary_x:
        x = torch.rand_like(x) + 0.1
    for call in products_of(module, x):
        assert_same(call)


@settings(max_examples=60)
@given(st.tuples(*[st.integers(1, 5)] * 4), st.sampled_from(["mm", "addmm", "bmm", "baddbmm"]),
       st.booleans(), st.booleans(), st.integers(0, 99))  # fmt: skip
def test_matrix_products(sizes, name, binary_x, binary_y, seed) -> None:
    torch.manual_seed(seed)
    b, m, k, n = sizes
    batch = (b,) if "b" in name.removeprefix("add") and name != "addmm" else ()
    x, y = torch.rand(*batch, m, k), torch.rand(*batch, k, n)
    x = (x < 0.5).float() if binary_x else x + 0.1
    y = (y < 0.5).float() if binary_y else y + 0.1
    func = getattr(aten, name).default
    args = (x, y) if not name.startswith(("add", "badd")) else (torch.zeros(*batch, m, n), x, y)
    output = func(*args)
    found = spike_operations(func, args, output)
    pairs = (x[..., :, :, None] != 0) & (y[..., None, :, :] != 0)
    spikes = is_binary(x), is_binary(y)
    assert found == (None if not any(spikes) else int(pairs.sum()) if all(spikes) else pairs_with(
        x if spikes[0] else y, n if spikes[0] else m))  # fmt: skip
    assert dense_operations(func, args, output) == x.numel() * n
    if has_op_counter():
        assert_same((func, args, {}, output))


def pairs_with(spikes: torch.Tensor, meets: int) -> int:
    return int(spikes.count_nonzero()) * meets


def assert_same(call: tuple) -> None:
    func, args, _, output = call
    theirs = operations_of(*call)
    ours = spike_operations(func, args, output)
    assert (0 if ours is None else ours) == theirs.synops
    assert (theirs.dense if ours is None else 0) == theirs.macs


def test_what_is_binary() -> None:
    assert is_binary(torch.tensor([True, False])) and is_binary(torch.zeros(2))
    assert not is_binary(torch.tensor([0.0, float("nan")]))
    assert not is_binary(torch.tensor([0.0, -1.0])) and is_binary(torch.empty(0))
