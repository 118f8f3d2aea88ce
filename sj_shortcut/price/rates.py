"""What the spiking layers of a model fired in a forward pass, and how an output finds it.

The autograd node of the model's output carries the record of its own forward, so that a loss finds
it by walking back from the output that it is given, and the record goes with the graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Rates", "hang_on", "rates_behind"]

_KEY = "sj_shortcut.rates"


@dataclass(eq=False)
class Rates:
    """What the spiking layers fired in one forward pass.

    Attributes:
        owner: Whose hooks filled it.
        looking: Whether channels are looked at as well.
        sums: For each layer that ran, the sum of its spikes, call by call.
        sizes: For each, the number of its outputs in all calls.
        fired: For each, where channels are looked at, which of them fired: ``[C]``.
        blocked: Layers that ran without gradients.
        priced: Whether a price was taken of it.
        finite: Whether the inputs are finite, where channels are looked at.
    """

    owner: Any
    looking: bool = False
    sums: dict[int, list[Tensor]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    fired: dict[int, Tensor] = field(default_factory=dict)
    blocked: list[int] = field(default_factory=list)
    priced: bool = False
    finite: list[Tensor] = field(default_factory=list)

    def add(self, index: int, spikes: Tensor, channel: int | None) -> None:
        """Take note of one call of a layer.

        Args:
            index: Which layer.
            spikes: What it fired.
            channel: The axis of its channels, ``None`` where it is not known.
        """
        if not torch.is_grad_enabled():
            self.blocked.append(index)
        # A sum rather than a mean: its gradient is one number, which no kernel has to write out.
        wide = torch.float64 if spikes.dtype == torch.float64 else torch.float32
        self.sums.setdefault(index, []).append(spikes.sum(dtype=wide))
        self.sizes[index] = self.sizes.get(index, 0) + spikes.numel()
        if not self.looking or channel is None or channel >= spikes.ndim:
            return
        others = [axis for axis in range(spikes.ndim) if axis != channel]
        fired = spikes.detach().ne(0).sum(others) > 0
        before = self.fired.get(index)
        self.fired[index] = fired if before is None else before | fired


def hang_on(tensor: Tensor, rates: Rates) -> Tensor:
    """A copy of a tensor of the model's output that carries the record.

    A copy, as its node must not be one that the spikes come from: where the model ends in a spiking
    layer, node and record would keep each other alive for ever.

    Example:
        >>> x = hang_on(2 * torch.ones(2, requires_grad=True), rates := Rates(None))
        >>> rates_behind(x.mean()) == [rates]
        True
    """
    if not tensor.requires_grad:
        return tensor
    tensor = tensor.clone()
    node: Any = tensor.grad_fn
    node.metadata[_KEY] = rates
    return tensor


def rates_behind(output: Tensor) -> list[Rates]:
    """The records of the forwards that an output comes from, each once.

    Args:
        output: What the loss is given: a model's output, or made of several.
    """
    found = {id(rates): rates for rates in _walk(output.grad_fn)}
    return list(found.values())


def _walk(root: Any) -> Iterator[Rates]:
    """Records in front of a graph, not going behind nodes that carry one."""
    waiting, passed = [root], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in passed:
            continue
        passed.add(node)
        rates = node.metadata.get(_KEY)
        if rates is not None:
            yield rates
        else:
            waiting.extend(before for before, _ in node.next_functions)
