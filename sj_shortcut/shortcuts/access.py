"""Reach the heads of a wrapped model: branches, logits, parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from sj_shortcut.shortcuts.branch import ShortcutBranch
from sj_shortcut.shortcuts.wrap import NO_DATA_PARALLEL, branches_of, has_shortcuts


def shortcut_branches(model: nn.Module) -> dict[str, ShortcutBranch]:
    """The branches of a wrapped model by the name of their point, in order of depth.

    Args:
        model: The wrapped model, or one that holds it: DistributedDataParallel, a compiled model,
            a Lightning module.

    Returns:
        Name of the tapped module → :class:`ShortcutBranch`; its ``head`` is your head.

    Raises:
        ValueError: If there is no wrapped model, or more than one.

    Example:
        >>> from torch import nn
        >>> from spikingjelly.activation_based import layer, neuron
        >>> from sj_shortcut import wrap_with_shortcuts
        >>> model = wrap_with_shortcuts(nn.Sequential(
        ...     layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 4), neuron.LIFNode(),
        ...     layer.Linear(4, 2)))
        >>> shortcut_branches(model)["1"].head
        ShortcutHead(
          (linear): Linear(in_features=16, out_features=2, bias=True)
        )
    """
    return {branch.name: branch for branch in branches_of(find_wrapped(model))}


def shortcut_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters of all heads, for a parameter group of their own.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikingjelly.activation_based import layer, neuron
        >>> from sj_shortcut import wrap_with_shortcuts
        >>> model = wrap_with_shortcuts(nn.Sequential(
        ...     layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 4), neuron.LIFNode(),
        ...     layer.Linear(4, 2)))
        >>> heads = list(shortcut_parameters(model))
        >>> own = [p for p in model.parameters() if all(p is not q for q in heads)]
        >>> optimizer = torch.optim.SGD(own, lr=0.1, weight_decay=1e-4)
        >>> optimizer.add_param_group({"params": heads, "weight_decay": 0.0})
    """
    for branch in shortcut_branches(model).values():
        yield from branch.parameters()


def shortcut_logits(model: nn.Module) -> dict[str, Tensor]:
    """Logits ``[N, K]`` of each head since the last reset, averaged over time.

    Args:
        model: The wrapped model, or one that holds it.

    Returns:
        Name of the tapped module → logits, still attached to the graph.

    Raises:
        RuntimeError: If a head has none, with the reason.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikingjelly.activation_based import layer, neuron
        >>> from sj_shortcut import wrap_with_shortcuts
        >>> model = wrap_with_shortcuts(nn.Sequential(
        ...     layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 4), neuron.LIFNode(),
        ...     layer.Linear(4, 2)))
        >>> output = model(torch.rand(3, 8))
        >>> {name: tuple(logits.shape) for name, logits in shortcut_logits(model).items()}
        {'1': (3, 2)}
    """
    logits = {}
    for name, branch in shortcut_branches(model).items():
        value = branch.logits
        if value is None:
            raise RuntimeError(why_no_logits(branch))
        logits[name] = value
    return logits


@contextmanager
def shortcuts_enabled(model: nn.Module) -> Iterator[None]:
    """Let the heads run in eval mode and without gradients, to read the accuracy of each depth.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from spikingjelly.activation_based import layer, neuron
        >>> from sj_shortcut import wrap_with_shortcuts
        >>> model = wrap_with_shortcuts(nn.Sequential(
        ...     layer.Linear(8, 16), neuron.LIFNode(), layer.Linear(16, 4), neuron.LIFNode(),
        ...     layer.Linear(4, 2)))
        >>> model = model.eval()
        >>> with torch.no_grad(), shortcuts_enabled(model):
        ...     output = model(torch.rand(3, 8))
        ...     predicted = {name: o.argmax(1) for name, o in shortcut_logits(model).items()}
        >>> predicted["1"].shape
        torch.Size([3])
    """
    branches = shortcut_branches(model).values()
    before = [branch.always_on for branch in branches]
    try:
        for branch in branches:
            branch.always_on = True
        yield
    finally:
        for branch, always_on in zip(branches, before, strict=True):
            branch.always_on = always_on
            branch.reset()


def find_wrapped(model: nn.Module) -> nn.Module:
    """The one wrapped model in ``model``, which may be itself.

    Raises:
        TypeError: If ``model`` is not a module, or is ``nn.DataParallel``.
        ValueError: If there is none, or more than one.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    if has_shortcuts(model):
        return model
    if isinstance(model, nn.DataParallel):
        raise TypeError(NO_DATA_PARALLEL)
    roots = [module for module in model.modules() if has_shortcuts(module)]
    if len(roots) == 1:
        return roots[0]
    if roots:
        raise ValueError(f"{type(model).__name__} holds {len(roots)} wrapped models: pass one.")
    raise ValueError(
        f"{type(model).__name__} has no shortcuts: call wrap_with_shortcuts(model) first."
    )


def why_no_logits(branch: ShortcutBranch) -> str:
    """Explain to a user why a branch has no logits after a forward pass."""
    if branch.blocked:
        return (
            f"the shortcut head at '{branch.name}' ran without gradients inside a model that has "
            "them, as under torch.utils.checkpoint with use_reentrant=True, and would train "
            "nothing below it: pass use_reentrant=False, or tap outside the checkpoint."
        )
    return (
        f"the shortcut head at '{branch.name}' has no logits: its point was not reached by a "
        "forward pass since the last reset_net. Heads run in training mode with gradients on (in "
        "eval mode inside shortcuts_enabled(model)); what calls a module's forward around its "
        "hooks leaves them out, such as SpikingJelly's to_functional_forward, and its memopt if it "
        "came after wrap_with_shortcuts."
    )
