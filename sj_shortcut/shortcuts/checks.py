"""What must hold before heads are put into a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import torch
from torch import nn

from sj_shortcut.neurons import has_memory
from sj_shortcut.shortcuts.branch import ShortcutBranch
from sj_shortcut.shortcuts.head import check_grid
from sj_shortcut.shortcuts.hooks import has_shortcuts
from sj_shortcut.torch_model import NO_DATA_PARALLEL, is_compiled, is_sharded, require_module

__all__ = [
    "check_apart",
    "check_factory",
    "check_outputs_differ",
    "check_reads",
    "check_wrappable",
    "settle_num_classes",
]


def check_wrappable(model: nn.Module) -> None:
    """Refuse what takes no heads.

    Raises:
        TypeError: If it is no module, or was put into something that heads would not be part of.
        ValueError: If it has shortcuts already.
    """
    require_module(model)
    kind = type(model).__name__
    if isinstance(model, nn.DataParallel):
        raise TypeError(NO_DATA_PARALLEL)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise TypeError(
            f"model is inside {kind} already: call wrap_with_shortcuts on the model itself, before "
            f"making it {kind}."
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"{kind} is compiled by torch.jit and takes no heads: wrap the original.")
    for name, module in model.named_modules():
        # torch.compile may have traced the module without the hooks that are to come.
        if is_compiled(module):
            where = f"its submodule '{name}'" if name else "it"
            raise TypeError(
                f"{kind} cannot be wrapped: {where} is compiled already. Call wrap_with_shortcuts "
                "first, then compile."
            )
        if is_sharded(module):
            where = f"its submodule '{name}'" if name else "it"
            raise TypeError(
                f"{kind} cannot be wrapped: {where} is sharded by FSDP already, and the heads "
                "would not be. Call wrap_with_shortcuts first, then shard."
            )
        if isinstance(module, ShortcutBranch) or has_shortcuts(module):
            where = f"its submodule '{name}'" if name and has_shortcuts(module) else "it"
            raise ValueError(
                f"{kind} cannot be wrapped: {where} has shortcuts already. To change them, call "
                "remove_shortcuts first."
            )


def check_factory(head: Any, grid: Any = None) -> None:
    """Refuse what makes no heads.

    Args:
        head: Makes heads; ``None`` for the default.
        grid: Parts of the map that default heads average over; ``None`` for the default.

    Raises:
        TypeError: If ``head`` cannot be called, or is a head itself.
        ValueError: If ``grid`` is no number of parts, or there are both.
    """
    if grid is not None:
        check_grid(grid)
        if head is not None:
            raise ValueError(
                "grid= is for the default heads, and head= makes others: give one of them, such as "
                f"head=functools.partial(ShortcutHead, grid={grid})."
            )
    if head is None or (callable(head) and not isinstance(head, nn.Module)):
        return
    raise TypeError(
        "head must make a new module at each call, head(channels, num_classes) -> nn.Module, such "
        f"as the class ShortcutHead; got an instance of {type(head).__name__}."
    )


def check_reads(reads: Any) -> None:
    """Refuse what heads cannot see.

    Args:
        reads: What :func:`~sj_shortcut.wrap_with_shortcuts` was given.

    Raises:
        ValueError: If it is not one of the two.
    """
    if reads not in ("spikes", "currents"):
        raise ValueError(f'reads must be "spikes" or "currents", got {reads!r}.')


def settle_num_classes(given: int | None, inferred: int | None) -> int:
    """The class count: what the user says, or else what was seen.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is below 1, or nothing is known.
    """
    if given is not None:
        if isinstance(given, bool) or not isinstance(given, Integral):
            raise TypeError(f"num_classes must be an int, got {type(given).__name__}.")
        if given < 1:
            raise ValueError(f"num_classes must be at least 1, got {given}.")
        return int(given)
    if inferred is None:
        raise ValueError(
            "the model's last layers do not tell the number of classes: pass num_classes=, or "
            "example_input= to have it read off a forward pass."
        )
    return inferred


def check_apart(model: nn.Module, heads: Mapping[str, nn.Module]) -> None:
    """Each head needs parameters and a memory of its own.

    Raises:
        ValueError: If a head shares them with the model or another head.
    """
    owners = {id(module): "the model" for module in model.modules()}
    for name, head in heads.items():
        for module in head.modules():
            # SpikingJelly's neurons share one default surrogate function, and may.
            if module is not head and not _has_state(module):
                continue
            owner = owners.setdefault(id(module), f"the head at '{name}'")
            if owner != f"the head at '{name}'":
                raise ValueError(
                    f"head(channels, num_classes) returned for '{name}' a "
                    f"{type(module).__name__} that belongs to {owner} already: make a new one at "
                    "each call."
                )


def check_outputs_differ(model: nn.Module, names: Iterable[str]) -> None:
    """Each head needs an output of its own; that of a chain is that of its last child.

    Raises:
        ValueError: If two points are the same output.
    """
    known: dict[nn.Module, str] = {}
    for name in names:
        module = model.get_submodule(name)
        while len(children := list(module.children())) and _is_chain(module):
            module = children[-1]
        other = known.setdefault(module, name)
        if other != name:
            raise ValueError(
                f"'{other}' and '{name}' are the same output: name only one of them in at=."
            )


def _is_chain(module: nn.Module) -> bool:
    return getattr(module.forward, "__func__", None) is nn.Sequential.forward


def _has_state(module: nn.Module) -> bool:
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return bool(own) or has_memory(module)
