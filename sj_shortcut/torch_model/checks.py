"""Checks of arguments that every room makes, in the same words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from torch import nn

__all__ = ["did_you_mean", "require_module"]


def require_module(model: object) -> None:
    """Refuse what is no module.

    Args:
        model: What was given for the argument ``model``.

    Raises:
        TypeError: If it is not a ``torch.nn.Module``; a class is told to be called first.

    Example:
        >>> require_module(nn.Linear(2, 2))
        >>> require_module([1, 2])
        Traceback (most recent call last):
        ...
        TypeError: model must be a torch.nn.Module, got list.
    """
    if isinstance(model, nn.Module):
        return
    if isinstance(model, type) and issubclass(model, nn.Module):
        name = model.__name__
        raise TypeError(
            f"model must be a torch.nn.Module, got the class {name}: make one, as in {name}(...)."
        )
    raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")


def did_you_mean(name: object, known: Iterable[str], count: int = 3) -> str:
    """A hint at names much like one that is unknown, to be put behind a sentence.

    Args:
        name: The unknown name; anything else has no likeness.
        known: The names there are.
        count: How many to hint at, at most.

    Returns:
        ``" Did you mean 'a', 'b'?"`` with a space before it, or nothing where none is near.

    Example:
        >>> did_you_mean("Layr1", ["layer1", "layer2", "classifier"], count=1)
        " Did you mean 'layer1'?"
        >>> did_you_mean("head", ["layer1", "layer2", "classifier"])
        ''
    """
    if not isinstance(name, str):
        return ""
    lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), lower, n=count, cutoff=0.5)
    if not near:
        return ""
    return f" Did you mean {', '.join(repr(lower[each]) for each in near)}?"
