"""SpikingJelly 2.0.0's neurons that are one operator, and the potentials it gives out."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["FUSED_OPERATORS", "potentials_of"]

# Such an operator calls no surrogate function, but the membrane potentials before firing are among
# its outputs: namespace -> position.
FUSED_OPERATORS = {
    "sj_eif": 2,
    "sj_if": 2,
    "sj_ilif": 2,
    "sj_izhikevich": 3,
    "sj_lif": 2,
    "sj_plif": 2,
    "sj_qif": 2,
}


def potentials_of(operator: Any, outputs: Any, neuron: nn.Module) -> Tensor | None:
    """What a neuron would have called its surrogate function with, were it not one operator.

    Args:
        operator: An operator that the neuron called, as a ``TorchFunctionMode`` sees it.
        outputs: What the operator returned.
        neuron: The neuron.

    Returns:
        The potentials less the threshold voltage (as a share of it for ``ILIFNode``), a tensor
        of its own outside of the graph; ``None`` where the operator is no such neuron's forward.

    Example:
        >>> import torch
        >>> potentials_of(torch.add, torch.ones(2), nn.Identity()) is None
        True
    """
    namespace = getattr(operator, "namespace", "")
    if namespace not in FUSED_OPERATORS or not operator.__name__.startswith("forward"):
        return None
    charged: Tensor = outputs[FUSED_OPERATORS[namespace]].detach()
    threshold: Any = neuron.v_threshold
    potentials: Tensor = charged / threshold if namespace == "sj_ilif" else charged - threshold
    return potentials
