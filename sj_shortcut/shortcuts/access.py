"""Reach the heads of a wrapped model: branches, logits, parameters."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from sj_shortcut.shortcuts.branch import ShortcutBranch
from sj_shortcut.shortcuts.forwards import Forwards, Record
from sj_shortcut.shortcuts.hooks import branch_in, forwards_of, has_shortcuts, head_is_gone
from sj_shortcut.shortcuts.pairing import gathered, why_no_heads
from sj_shortcut.torch_model import NO_DATA_PARALLEL, require_module

__all__ = [
    "find_wrapped",
    "shortcut_branches",
    "shortcut_logits",
    "shortcut_parameters",
    "shortcuts_enabled",
]


def shortcut_branches(model: nn.Module) -> dict[str, ShortcutBranch]:
    """The branches of a wrapped model by the name of their point, in the order of execution.

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
    root = find_wrapped(model)
    forwards = forwards_of(root)
    return {name: _branch(root, name, forwards) for name in forwards.names}


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
    """Logits ``[N, K]`` of each head that ran, averaged over time.

    Where a call of the model is one time step, calls gather since the last ``reset_net``, or since
    a loss has used them; without SpikingJelly's neurons, which have no such reset, since the last
    call of this function.

    Args:
        model: The wrapped model, or one that holds it.

    Returns:
        Name of the tapped module → logits, still attached to the graph.

    Raises:
        RuntimeError: If no head ran, with the reason.

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
    root = find_wrapped(model)
    forwards = forwards_of(root)
    records = forwards.sequence()
    forwards.used = forwards.used or bool(records)
    logits = gathered(records, forwards.names, per_step=False)
    if not logits:
        raise RuntimeError(why_no_heads(root, forwards))
    for name in set(forwards.names) - logits.keys():
        _branch(root, name, forwards)
    if any(not record.read for record in records):
        _watch_backward(records, logits.values())
    return logits


def _branch(root: nn.Module, name: str, forwards: Forwards) -> ShortcutBranch:
    try:
        module = root.get_submodule(name)
    except AttributeError:
        raise RuntimeError(head_is_gone(name)) from None
    return branch_in(module, name, forwards)[1]


def _watch_backward(records: Sequence[Record], logits: Iterable[Tensor]) -> None:
    """Notice a backward pass of a loss of the heads alone, which goes not through the output."""
    known = [weakref.ref(record) for record in records]  # which hold the logits

    def spend(grad: Tensor) -> None:
        for there in known:
            record = there()
            if record is not None:
                record.spent = True

    for record in records:
        record.read = True
    for one in logits:
        if one.requires_grad:
            one.register_hook(spend)


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
    forwards = forwards_of(find_wrapped(model))
    before = forwards.always_on
    try:
        forwards.always_on = True
        forwards.reset()
        yield
    finally:
        forwards.always_on = before
        forwards.reset()


def find_wrapped(model: nn.Module) -> nn.Module:
    """The one wrapped model in ``model``, which may be itself.

    Raises:
        TypeError: If ``model`` is not a module, or is ``nn.DataParallel``.
        ValueError: If there is none, or more than one.
    """
    require_module(model)
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
