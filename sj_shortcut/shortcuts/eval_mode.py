"""Notice a loss taken in eval mode that parameters are trained by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sj_shortcut.shortcuts.forwards import Forwards
from sj_shortcut.shortcuts.telling import tell

__all__ = ["tell_of_eval_mode", "watch_for_updates_in_eval_mode"]


def tell_of_eval_mode(root: nn.Module, forwards: Forwards) -> None:
    """In a backward pass of a loss taken in eval mode: tell, unless only the input is asked for."""
    if forwards.attacked or "eval mode" in forwards.said:
        return
    # Not all of them, as SpikingJelly 0.0.0.0.14 has no surrogate gradients in eval mode.
    if not any(_accumulates(p) for p in root.parameters() if p.requires_grad):
        return
    if forwards.used:  # it may be measured by, as Fisher information is: is it trained by as well?
        forwards.eval_backward = _version(root)
    else:
        _tell_of_eval_mode(forwards)


def watch_for_updates_in_eval_mode(root: nn.Module, forwards: Forwards) -> None:
    """Before a forward: tell if parameters were updated right after a loss taken in eval mode."""
    if forwards.eval_backward < 0:
        return
    if _version(root) != forwards.eval_backward:
        _tell_of_eval_mode(forwards)
    forwards.eval_backward = -1


def _version(root: nn.Module) -> int:
    return sum(parameter._version for parameter in root.parameters())


def _tell_of_eval_mode(forwards: Forwards) -> None:
    tell(
        forwards,
        "eval mode",
        "a ShortcutLoss taken in eval mode was differentiated: it is the plain criterion there, "
        "and the shortcut heads had no part in it. Call model.train() before the forward; to keep "
        "batch norms or dropout still, put only these in eval mode.",
    )


def _accumulates(leaf: Tensor) -> bool:
    """Whether the backward pass that is running gives a parameter its gradient."""
    node = torch.autograd.graph.get_gradient_edge(leaf).node
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:  # which autograd.grad cannot say of leaves
        return False
