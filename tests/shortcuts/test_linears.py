"""Linear layers as few products give what each gives by itself."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sj_shortcut.shortcuts.linears import Linears


def tensors(widths: list[int], rows: int, classes: int) -> list[Tensor]:
    """Features, then weights, then biases, all in double precision."""
    torch.manual_seed(0)
    shapes = [
        *((rows, width) for width in widths),
        *((classes, width) for width in widths),
        *((classes,) for _ in widths),
    ]
    return [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@given(
    widths=st.lists(st.sampled_from([1, 3, 8]), min_size=1, max_size=5),
    rows=st.integers(1, 4),
    classes=st.integers(1, 4),
    data=st.data(),
)
def test_logits_and_gradients_are_those_of_each_layer(widths, rows, classes, data):
    widths.sort()  # equal ones behind each other
    used = data.draw(st.lists(st.sampled_from(range(len(widths))), min_size=1, unique=True))
    all_tensors = tensors(widths, rows, classes)
    count = len(widths)
    found = Linears.apply(None, *all_tensors)
    due = [
        nn.functional.linear(all_tensors[i], all_tensors[count + i], all_tensors[2 * count + i])
        for i in range(count)
    ]
    torch.testing.assert_close(list(found), due)
    torch.manual_seed(1)
    weights = [torch.randn(rows, classes, dtype=torch.float64) for _ in used]
    grads = [
        torch.autograd.grad(
            sum((w * logits[i]).sum() for w, i in zip(weights, used, strict=True)),
            all_tensors,
            allow_unused=True,
        )
        for logits in (found, due)
    ]
    for one, other in zip(*grads, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_products_are_in_the_dtype_of_autocast_and_gradients_in_that_of_the_weights():
    all_tensors = [x.detach().float().requires_grad_() for x in tensors([3, 3], 4, 2)]
    found = Linears.apply(torch.bfloat16, *all_tensors)
    assert {logits.dtype for logits in found} == {torch.bfloat16}
    (found[0].sum() + found[1].sum()).backward()
    assert {x.grad.dtype for x in all_tensors[2:4]} == {torch.float32}
