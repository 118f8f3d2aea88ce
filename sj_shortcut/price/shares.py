"""The share of each spiking layer in the most synaptic operations that a network could need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sj_shortcut.places import WEIGHT_LAYERS
from sj_shortcut.places.example_pass import untouched
from sj_shortcut.torch_model import map_tensors

__all__ = ["fan_out_shares"]


def fan_out_shares(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    neurons: Mapping[str, nn.Module],
) -> dict[str, float] | None:
    """How much each spiking layer would drive if all of them fired all of the time.

    One pass that leaves no trace, with the graph cut at every spiking layer and after every layer
    with weights: what is left of it leads from spikes, through pooling and sums, to the weights
    that they meet. The gradient of the number of weights met is then the fan-out of each spike.

    Args:
        model: The model.
        args: What it takes.
        kwargs: Likewise.
        neurons: Its spiking layers by name.

    Returns:
        For each layer its share; they add up to 1. ``None`` where it cannot be seen.

    Example:
        >>> from spikingjelly.activation_based import neuron
        >>> model = nn.Sequential(nn.Linear(4, 8), neuron.IFNode(), nn.Linear(8, 8),
        ...                       neuron.IFNode(), nn.Linear(8, 24))
        >>> neurons = {"1": model[1], "3": model[3]}
        >>> fan_out_shares(model, (torch.rand(3, 4),), {}, neurons)
        {'1': 0.25, '3': 0.75}
    """
    met: list[Tensor] = []
    fired: dict[str, list[Tensor]] = {name: [] for name in neurons}
    try:
        with (
            untouched(model),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(_device_type(model), enabled=False),
        ):
            for name, module in neurons.items():
                module.register_forward_hook(partial(_cut, keep=fired[name].append))
            for module in model.modules():
                if isinstance(module, WEIGHT_LAYERS):
                    module.register_forward_pre_hook(partial(_meet, keep=met.append))
                    module.register_forward_hook(partial(_cut, keep=None))
            args, kwargs = map_tensors((args, dict(kwargs)), _plain)
            model(*args, **kwargs)
            return _shares(met, fired)
    except Exception:  # the forward to come will say what is wrong with this input
        return None


def _shares(met: list[Tensor], fired: Mapping[str, list[Tensor]]) -> dict[str, float] | None:
    spikes = [spikes for calls in fired.values() for spikes in calls]
    met = [number for number in met if number.requires_grad]
    if not met or not spikes:
        return None
    grads = iter(torch.autograd.grad(torch.stack(met).sum(), spikes, allow_unused=True))
    driven = {name: 0.0 for name in fired}
    for name, calls in fired.items():
        for _ in calls:
            grad = next(grads)
            driven[name] += 0.0 if grad is None else float(grad.double().abs().sum())
    whole = sum(driven.values())
    return {name: each / whole for name, each in driven.items()} if whole > 0 else None


def _cut(
    module: nn.Module, args: Any, output: Any, *, keep: Callable[[Tensor], None] | None
) -> Any:
    """Let no gradient pass; keep what a spiking layer fired, to ask for a gradient there."""

    def cut(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        tensor = tensor.detach()
        if keep is not None:
            keep(tensor.requires_grad_())
            return tensor.view_as(tensor)
        return tensor

    return map_tensors(output, cut)


def _meet(module: nn.Module, args: Any, *, keep: Callable[[Tensor], None]) -> None:
    """Keep how many weights the input of a layer meets, as a function of that input."""
    x = args[0] if args else None
    if isinstance(x, Tensor) and x.requires_grad:
        keep(_weights_met(module, x).sum(dtype=torch.float64))


def _weights_met(module: Any, x: Tensor) -> Tensor:
    if isinstance(module, nn.Linear):
        return x * float(module.out_features)
    axes = len(module.kernel_size)
    x = x.flatten(0, -axes - 2) if x.ndim > axes + 2 else x
    kernel, groups = module.kernel_size, module.groups
    if module.transposed:
        ones = x.new_ones(module.in_channels, 1, *kernel)
        padding, outputs = module.padding, module.weight.shape[1]
    else:
        ones = x.new_ones(groups, module.in_channels // groups, *kernel)
        outputs = module.out_channels // groups
        # As all kinds of padding have it in common, "same" for one; padding has no spikes.
        x = nn.functional.pad(x, module._reversed_padding_repeated_twice)
        padding = (0,) * axes
    more = (module.dilation, module.transposed, module.output_padding, groups)
    met: Tensor = torch.convolution(x, ones, None, module.stride, padding, *more)
    return met * float(outputs)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def _device_type(model: nn.Module) -> str:
    return next((p.device.type for p in model.parameters()), "cpu")
