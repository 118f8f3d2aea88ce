"""What `fully_shard` (FSDP2) does to shortcut heads."""

from __future__ import annotations

import sys

from torch import nn

from sj_shortcut.torch_model.ranks import is_distributed

__all__ = ["is_sharded", "lost_its_weights"]


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP, of either generation, manages the parameters of a module as one group."""
    # Where it was never imported nothing is sharded, and importing it takes a while. Another thread
    # may be importing it just now, and then has not come to the classes yet.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kinds = (getattr(fsdp, name, None) for name in ("FSDPModule", "FullyShardedDataParallel"))
    return any(kind is not None and isinstance(module, kind) for kind in kinds)


def lost_its_weights(root: nn.Module, path: str) -> bool:
    """Whether a head's weights are gone from this process before its backward pass.

    A group gathers its weights again when a gradient reaches the output of its module. A head's
    logits leave the model on another way, so a head in the group of a module around it would run
    backward too early. In a group of its own its logits are the output.

    Args:
        root: The wrapped model, after its forward pass.
        path: Dotted path of the branch.
    """
    if not is_distributed():
        return False  # the usual case, quick as it comes with every head and step
    branch = root.get_submodule(path)
    # Between forward and backward the parameters of such a group are DTensors.
    if all(type(parameter) is nn.Parameter for parameter in branch.parameters()):
        return False
    if any(is_sharded(module) for module in branch.modules()):
        return False
    names = path.split(".")
    return any(is_sharded(root.get_submodule(".".join(names[:i]))) for i in range(len(names)))
