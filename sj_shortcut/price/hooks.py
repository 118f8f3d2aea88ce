"""The hooks that note what spiking layers fire: before the model, after each layer, at the end.

All are module-level functions, so that copies and pickles of the model carry them along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from sj_shortcut.neurons import is_spiking_neuron
from sj_shortcut.neurons.calls import known_step_mode
from sj_shortcut.price.rates import Rates, hang_on
from sj_shortcut.price.shares import fan_out_shares
from sj_shortcut.torch_model import (
    first_tensor,
    in_backward,
    is_sharded,
    map_tensors,
    require_module,
    tensors_in,
)

__all__ = ["Spending", "has_price", "put_hooks_on", "remove_price", "without_hooks"]


@dataclass(eq=False)
class Spending:
    """What the hooks of one model share.

    Attributes:
        names: The spiking layers, in the order of definition.
        shares: Of each the share of the most operations there could be; ``None`` if not known.
        looked: Whether shares were looked for.
        looking: Whether the next forward is to look at channels, too.
        current: The record of the forward that is running.
    """

    names: list[str]
    shares: list[float] | None = None
    looked: bool = False
    looking: bool = True
    current: Rates | None = field(default=None)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "current": None}  # tensors inside a graph cannot be copied


def put_hooks_on(model: nn.Module, neuron_types: tuple[type, ...]) -> Spending:
    """Let a model note what its spiking layers fire while it trains.

    Args:
        model: The model.
        neuron_types: Spiking neuron classes of the user's.

    Raises:
        ValueError: If it has no spiking layer.
    """
    neurons = _neurons_of(model, neuron_types)
    if not neurons:
        raise ValueError(
            f"{type(model).__name__} has no spiking layer to put a price on: name your own classes "
            "of neurons with neuron_types=."
        )
    spending = Spending(list(neurons))
    before = partial(before_model, spending=spending, neuron_types=neuron_types)
    try:
        for index, module in enumerate(neurons.values()):
            # In front of others: heads save kernels where theirs is the last.
            hook = partial(after_neuron, index=index, spending=spending)
            module.register_forward_hook(hook, prepend=True)
        model.register_forward_hook(partial(after_model, spending=spending))
        model.register_forward_pre_hook(before, with_kwargs=True)
    except BaseException:  # an interrupt: half of the hooks are of no use
        remove_price(model)
        raise
    return spending


def has_price(model: nn.Module) -> bool:
    """Whether a model itself has hooks that note what its spiking layers fire."""
    return any(_is_ours(hook) for hook in model._forward_pre_hooks.values())


def without_hooks(model: nn.Module, names: Sequence[str], counts: Sequence[int]) -> list[str]:
    """Layers that noted nothing as the hooks on them are gone: others are in their place.

    Args:
        model: The model.
        names: Its spiking layers, as they were.
        counts: Of each how much it noted in a forward; layers that were left out have 0, too.
    """
    silent = [name for name, count in zip(names, counts, strict=True) if not count]
    modules = dict(model.named_modules()) if silent else {}
    return [
        name
        for name in silent
        if name not in modules or not any(map(_is_ours, modules[name]._forward_hooks.values()))
    ]


def remove_price(model: nn.Module) -> None:
    """Take the hooks of a :class:`SpikePrice` off; does nothing where there are none.

    ``remove_shortcuts`` does so as well.

    Args:
        model: The model.

    Raises:
        TypeError: If ``model`` is not a module.
    """
    require_module(model)
    for module in model.modules():
        tables = (
            (module._forward_hooks, module._forward_hooks_with_kwargs),
            (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        )
        for hooks, with_kwargs in tables:
            for key in [key for key, hook in hooks.items() if _is_ours(hook)]:
                with_kwargs.pop(key, None)
                del hooks[key]


def before_model(
    model: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any],
    *,
    spending: Spending,
    neuron_types: tuple[type, ...],
) -> None:
    """Before the model runs: open a record, and look at fan-outs once."""
    if torch.compiler.is_compiling() or in_backward():
        return
    spending.current = None
    if not (model.training and torch.is_grad_enabled()):
        return
    if not spending.looked and not _is_captured():
        spending.looked = True
        if not any(map(is_sharded, model.modules())):  # which a pass of one's own would disturb
            neurons = _neurons_of(model, neuron_types)
            found = fan_out_shares(model, args, kwargs, neurons)
            spending.shares = None if found is None else [found[name] for name in spending.names]
    spending.current = Rates(spending, spending.looking)
    if spending.looking:  # spiking layers take NaN for silence, and outputs may look sound
        given = [x for x in tensors_in((args, dict(kwargs))) if x.is_floating_point()]
        spending.current.finite = [x.detach().isfinite().all() for x in given]


def after_neuron(
    module: nn.Module, args: Any, output: Any, *, index: int, spending: Spending
) -> None:
    """After a spiking layer ran: note what it fired."""
    if torch.compiler.is_compiling() or spending.current is None or in_backward():
        return  # a checkpoint runs it again: it was noted
    spikes = first_tensor(output)
    if spikes is not None:
        channel = {"m": 2, "s": 1}.get(known_step_mode(module) or "")
        spending.current.add(index, spikes, channel)


def after_model(model: nn.Module, args: Any, output: Any, *, spending: Spending) -> Any:
    """After the model ran: hang the record on its output, whichever tensor a loss may take."""
    if torch.compiler.is_compiling() or in_backward():
        return None
    rates, spending.current = spending.current, None
    return None if rates is None else map_tensors(output, partial(hang_on, rates=rates))


def _neurons_of(model: nn.Module, neuron_types: tuple[type, ...]) -> dict[str, nn.Module]:
    """Spiking layers by name, but for those inside others and inside heads."""
    found: dict[str, nn.Module] = {}
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside:
            continue
        if getattr(module, "is_shortcut_branch", False):
            inside.update(module.modules())
        elif is_spiking_neuron(module, neuron_types):
            inside.update(module.modules())
            found[name] = module
    return found


def _is_ours(hook: Any) -> bool:
    return isinstance(hook, partial) and hook.func in (before_model, after_neuron, after_model)


def _is_captured() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
