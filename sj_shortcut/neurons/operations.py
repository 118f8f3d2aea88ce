"""Synaptic operations and multiply-accumulates of an operator, by SpikingJelly where it counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sj_shortcut.neurons.products import PRODUCTS, dense_operations, spike_operations

try:
    from spikingjelly.activation_based import op_counter
except ImportError:  # SpikingJelly 0.0.0.0.14
    op_counter = None

__all__ = ["Operations", "has_op_counter", "operations_of"]


class Operations(NamedTuple):
    """What one operator cost.

    Attributes:
        synops: Accumulates driven by spikes; 0 where neither side of the product is spikes.
        macs: Multiply-accumulates; 0 where a side is spikes.
        dense: Multiply-accumulates if neither side were.
    """

    synops: int
    macs: int
    dense: int


def has_op_counter() -> bool:
    """Whether the installed SpikingJelly counts operations by itself (2.0.0 does).

    Example:
        >>> has_op_counter() == (op_counter is not None)
        True
    """
    return op_counter is not None


def operations_of(
    operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any
) -> Operations | None:
    """Count the operations of an operator, as a ``TorchDispatchMode`` sees it.

    By the rules of SpikingJelly's own ``SynOpCounter`` and ``MACCounter`` where these exist, and
    by ours, which give the same, where they do not. An operand is spikes where all it holds is 0
    or 1. Batch norm has no operations: on hardware it is folded into the weights before it.

    Args:
        operator: The operator.
        args: What it was called with.
        kwargs: Likewise.
        output: What it returned.

    Returns:
        The counts; ``None`` for an operator that is no matrix product and no convolution.

    Example:
        >>> x, y = torch.eye(3)[:2], torch.rand(3, 5)
        >>> operations_of(torch.ops.aten.mm.default, (x, y), {}, x @ y)
        Operations(synops=10, macs=0, dense=30)
    """
    if operator not in PRODUCTS or not isinstance(output, Tensor):
        return None
    dense = dense_operations(operator, args, output)
    if op_counter is None:
        synops = spike_operations(operator, args, output)
        return Operations(0, dense, dense) if synops is None else Operations(synops, 0, dense)
    call = (operator, tuple(args), dict(kwargs), output)
    with torch.no_grad():
        synops = op_counter.SynOpCounter().count(*call)
        return Operations(synops, op_counter.MACCounter().count(*call), dense)
