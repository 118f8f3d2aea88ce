"""Whether calling a module does no more than what its class says."""

from __future__ import annotations

from typing import Any, TypeGuard, TypeVar

from torch import nn

__all__ = ["is_plain"]

_Module = TypeVar("_Module", bound=nn.Module)


def is_plain(module: Any, kind: type[_Module]) -> TypeGuard[_Module]:
    """Whether a module is of exactly this class, without hooks, and runs the class's ``forward``.

    Pruned and sharded weights come with hooks; parametrized and adapted layers have a class of
    their own.

    Example:
        >>> linear = nn.Linear(2, 2)
        >>> is_plain(linear, nn.Linear)
        True
        >>> handle = linear.register_forward_hook(print)
        >>> is_plain(linear, nn.Linear)
        False
    """
    return type(module) is kind and not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or module._compiled_call_impl
        or "forward" in module.__dict__
    )
