"""Weights of a wrapped model for a model without heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sj_shortcut.shortcuts.hooks import CHILD

__all__ = ["without_shortcuts"]


def without_shortcuts(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a wrapped model without that of its heads, for the plain model to load.

    Args:
        state_dict: ``model.state_dict()`` of a wrapped model, as read from a checkpoint; one that
            holds no heads is given back as it is.

    Returns:
        A new dict of the other entries, in their order.

    Raises:
        TypeError: If it is no dict of tensors by name.
        ValueError: If it holds other dicts, as a whole checkpoint does.

    Example:
        >>> from torch import nn
        >>> from spikingjelly.activation_based import layer, neuron
        >>> from sj_shortcut import wrap_with_shortcuts
        >>> def make_model():
        ...     return nn.Sequential(layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 4),
        ...                          neuron.LIFNode(), layer.Linear(4, 2))
        >>> state = wrap_with_shortcuts(make_model()).state_dict()
        >>> make_model().load_state_dict(without_shortcuts(state))
        <All keys matched successfully>
    """
    if not (isinstance(state_dict, Mapping) and all(isinstance(key, str) for key in state_dict)):
        raise TypeError(
            f"state_dict must hold the entries of model.state_dict() by name, got a "
            f"{type(state_dict).__name__}: save model.state_dict() rather than the model, and pass "
            "what torch.load gives of it."
        )
    inner = [repr(key) for key, value in state_dict.items() if isinstance(value, Mapping)]
    if inner:
        raise ValueError(
            f"state_dict holds other dicts ({', '.join(inner[:5])}), as a checkpoint of several "
            "things does: pass the entry that is the model's."
        )
    kept = type(state_dict)() if isinstance(state_dict, dict) else {}
    kept.update((key, value) for key, value in state_dict.items() if CHILD not in key.split("."))
    # Versions of modules, by which PyTorch reads what older ones of them have saved.
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is not None:
        kept._metadata = {  # type: ignore[attr-defined]
            name: value for name, value in metadata.items() if CHILD not in name.split(".")
        }
    return kept
