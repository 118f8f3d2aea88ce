"""Tensors in what modules return."""

import dataclasses
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor

from sj_shortcut.torch_model.outputs import first_tensor, map_tensors, tensors_in

Pair = namedtuple("Pair", "logits name")


@dataclasses.dataclass(frozen=True)
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...] = ()
    name: str = "x"

    def __post_init__(self) -> None:
        assert isinstance(self.logits, Tensor)


a, b = torch.ones(1), torch.ones(2)
NESTS: dict[str, tuple[Any, list[Tensor]]] = {
    "tensor": (a, [a]),
    "tuple": ((a, None, b), [a, b]),
    "list in dict": ({"x": [a, "text"], "y": b}, [a, b]),
    "ordered dict": (OrderedDict(z=a, b=b), [a, b]),
    "named tuple": (Pair(a, "name"), [a]),
    "dataclass": (Output(a, (b,)), [a, b]),
    "dataclass in list": ([Output(a), b], [a, b]),
    "neither": ("text", []),
    "nothing": (None, []),
    "empty": ((), []),
}


@pytest.mark.parametrize(("nest", "tensors"), NESTS.values(), ids=NESTS)
def test_all_tensors_in_order(nest, tensors):
    found = tensors_in(nest)
    assert len(found) == len(tensors) and all(x is y for x, y in zip(found, tensors, strict=True))
    first = first_tensor(nest)
    assert first is (tensors[0] if tensors else None)


@pytest.mark.parametrize(("nest", "tensors"), NESTS.values(), ids=NESTS)
def test_a_copy_with_every_tensor_replaced(nest, tensors):
    mapped = map_tensors(nest, lambda tensor: 2 * tensor)
    assert type(mapped) is type(nest)
    assert [x.sum().item() for x in tensors_in(mapped)] == [2 * x.sum().item() for x in tensors]
    assert all(x.max() == 1 for x in tensors)  # the original is as it was


def test_what_is_not_a_tensor_stays():
    thing = object()
    assert map_tensors(thing, torch.neg) is thing
    assert map_tensors(Pair(a, thing), torch.neg).name is thing
    assert map_tensors(Output(a, name="mine"), torch.neg).name == "mine"
