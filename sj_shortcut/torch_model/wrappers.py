"""What a model may be wrapped in: DistributedDataParallel, DataParallel, torch.compile."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper

from sj_shortcut.torch_model.checks import require_module

__all__ = [
    "NO_DATA_PARALLEL",
    "bare_model",
    "find_compiled",
    "is_checkpointed",
    "is_compiled",
    "without_checkpoints",
]

NO_DATA_PARALLEL = (
    "nn.DataParallel copies the model at every step and the heads' logits are lost with the "
    "copies: use torch.nn.parallel.DistributedDataParallel."
)


def bare_model(model: Any) -> tuple[nn.Module, nn.Module | None]:
    """The model inside DistributedDataParallel and ``torch.compile``.

    Args:
        model: The model, or what it is wrapped in.

    Returns:
        The bare model, and the innermost compiled wrapper around it, ``None`` where there is none.

    Raises:
        TypeError: If ``model`` is not a module, or is ``nn.DataParallel``.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 2)
        >>> bare, compiled = bare_model(torch.compile(model))
        >>> bare is model, type(compiled).__name__
        (True, 'OptimizedModule')
    """
    require_module(model)
    compiled = None
    while True:
        if isinstance(model, nn.DataParallel):
            raise TypeError(NO_DATA_PARALLEL)
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:
            compiled, model = model, model._modules["_orig_mod"]
            assert isinstance(model, nn.Module)
        else:
            return model, compiled


def is_compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile(module)`` returned this module, or ``module.compile()`` was called.

    Of the modules inside it this says nothing; see :func:`find_compiled`.

    Example:
        >>> module = nn.Linear(2, 2)
        >>> is_compiled(module)
        False
        >>> module.compile()
        >>> is_compiled(module)
        True
    """
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None


def find_compiled(model: nn.Module) -> str | None:
    """Dotted path of the first compiled module in ``model``, which may be itself (``""``).

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> model[1].compile()
        >>> find_compiled(model)
        '1'
    """
    return next((name for name, module in model.named_modules() if is_compiled(module)), None)


def is_checkpointed(root: nn.Module, path: str) -> bool:
    """Whether a module is one of ``checkpoint_wrapper``'s, or inside one.

    Args:
        root: The model.
        path: Dotted path of the module.

    Example:
        >>> from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
        ...     checkpoint_wrapper)
        >>> model = nn.Sequential(nn.Linear(2, 2), checkpoint_wrapper(nn.Linear(2, 2)))
        >>> is_checkpointed(model, "0"), is_checkpointed(model, "1")
        (False, True)
    """
    parts = path.split(".") if path else []
    prefixes = (".".join(parts[:i]) for i in range(len(parts) + 1))
    return any(isinstance(root.get_submodule(prefix), CheckpointWrapper) for prefix in prefixes)


def without_checkpoints(model: nn.Module) -> None:
    """Have what ``checkpoint_wrapper`` wraps, as SpikingJelly's memopt does, run as it is.

    Example:
        >>> import torch
        >>> from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
        ...     checkpoint_wrapper)
        >>> model = checkpoint_wrapper(nn.Linear(2, 2))
        >>> without_checkpoints(model)
        >>> type(model(torch.rand(1, 2)).grad_fn).__name__
        'AddmmBackward0'
    """
    for module in model.modules():
        if isinstance(module, CheckpointWrapper):
            module.checkpoint_fn = partial(_run)


def _run(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return module(*args, **kwargs)
