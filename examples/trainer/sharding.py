"""Models that do not fit into one process: each holds a part of every weight (FSDP2)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from sj_shortcut import shortcut_branches

from .errors import UserError
from .processes import World

__all__ = ["local", "shard", "spread", "whole"]


def shard(model: nn.Module, world: World, has_heads: bool) -> None:
    """Leave each process its part of the weights; the others' come for as long as a layer runs."""
    refuse_scalars(model)
    refuse_old_pytorch(world)
    # SpikingJelly's layers return views in step mode 'm', and each would say so at every call.
    warnings.filterwarnings("once", "FSDP2-wrapped module .* returned a view", UserWarning)
    mesh = init_device_mesh(world.device.type, (world.size,))
    # Heads come first and by themselves: a stage gives its weights back before its head's backward.
    for branch in shortcut_branches(model).values() if has_heads else ():
        fully_shard(branch, mesh=mesh)
    limit = sum(p.numel() for p in model.parameters()) // 8
    for module in list(units(model, limit)):
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def units(module: nn.Module, limit: int) -> Iterator[nn.Module]:
    """The largest modules within a limit, and layers beyond it: what is whole at one time.

    Where there are only norms the weights are few, and stay with the model's.
    """
    for child in module.children():
        sizes = [p.numel() for p in child.parameters() if p.ndim > 1 and type(p) is nn.Parameter]
        large = sum(sizes) > limit and any(True for _ in child.children())
        if large or isinstance(child, nn.ModuleList | nn.ModuleDict):  # the latter never run
            yield from units(child, limit)
        elif sizes:
            yield child


def refuse_old_pytorch(world: World) -> None:
    # It asks the stream of a processor for what, there, only that of a GPU has.
    if world.device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
        raise UserError(
            f"--fsdp runs on GPUs only with PyTorch {torch.__version__}: leave the flag out, or "
            "install a newer PyTorch"
        )


def refuse_scalars(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 0:
            raise UserError(
                f"--fsdp cannot share out {name}, which is a single number: leave the flag out, or "
                "choose a model whose neurons learn none"
            )


def whole(state: Any) -> Any:
    """A state whose tensors are as in one process, on the CPU; all processes must ask."""

    def gather(value: Any) -> Any:
        return value.full_tensor().cpu() if isinstance(value, DTensor) else value

    return tree_map(gather, state)


def spread(value: Any, like: Tensor) -> Any:
    """This process's part of a whole tensor that belongs to a parameter; all must ask."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def local(x: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return x.to_local() if isinstance(x, DTensor) else x
