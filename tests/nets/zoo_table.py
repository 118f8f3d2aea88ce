"""Print a Markdown table of SpikingJelly's models and example networks, and of their heads.

Each is wrapped with the model alone and trained for one step. It counts as right when every head's
logits are those computed by hand from the tapped output, and the loss reaches every head.

    python -m tests.nets.zoo_table
"""

import importlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor, nn

from sj_shortcut import (
    ConstantSchedule,
    ShortcutLoss,
    shortcut_branches,
    shortcut_logits,
    shortcuts_enabled,
    wrap_with_shortcuts,
)
from sj_shortcut.torch_model import first_tensor, tensors_in

BASE = "spikingjelly.activation_based"
LIF = {"spiking_neuron": neuron.LIFNode, "v_threshold": 0.1, "surrogate_function": surrogate.ATan()}


class Row(NamedTuple):
    """One model: where it is, how it is made, its step mode and the shape of its input."""

    module: str
    name: str
    make: dict[str, Any]
    mode: str
    shape: tuple[int, ...]


def rows() -> list[Row]:
    """All models that a CPU can train for a step; of each family one depth beyond what differs."""
    found = []
    image = (2, 2, 3, 64, 64)
    for depth in (18, 34, 50):
        found.append(Row("model.spiking_resnet", f"spiking_resnet{depth}", LIF, "m", image))
    for depth in (18, 34, 50):
        make = {**LIF, "cnf": "ADD"}
        found.append(Row("model.sew_resnet", f"sew_resnet{depth}", make, "m", image))
    found.append(Row("model.spiking_vgg", "spiking_vgg11_bn", LIF, "m", (2, 2, 3, 32, 32)))
    found.append(Row("model.spiking_vgg", "spiking_vgg16_bn", LIF, "m", (2, 2, 3, 32, 32)))
    for name, shape in (
        ("MNISTNet", (2, 2, 1, 28, 28)),
        ("FashionMNISTNet", (2, 2, 1, 28, 28)),
        ("NMNISTNet", (2, 2, 2, 34, 34)),
        ("CIFAR10Net", (2, 2, 3, 32, 32)),
        ("CIFAR10DVSNet", (2, 2, 2, 128, 128)),
        ("DVSGestureNet", (2, 2, 2, 128, 128)),
    ):
        make = {"channels": 16, **LIF, "spiking_neuron": neuron.ParametricLIFNode}
        found.append(Row("model.parametric_lif_net", name, make, "m", shape))
    few = {"T": 2, "num_classes": 10}
    small = {**few, "embed_dims": 48, "depths": 2}
    batch = (2, 3, 64, 64)
    found += [
        Row("model.ms_resnet", "ms_resnet18", few, "", batch),
        Row("model.ms_resnet", "ms_resnet34", few, "", batch),
        Row("model.masnn", "att_ms_resnet18", few, "", batch),
        Row("model.masnn", "masnn_dvs128_gesture", {"T": 4}, "", (4, 2, 2, 32, 32)),
        Row(
            "model.spikformer",
            "Spikformer",
            {**small, "img_size_h": 64, "img_size_w": 64, "num_heads": 4},
            "",
            batch,
        ),
        Row("model.spikformer", "spikformer_cifar10", {"T": 2}, "", (2, 3, 32, 32)),
        Row("model.qkformer", "qkformer_10_384", few, "", batch),
        Row("model.maxformer", "maxformer_cifar", few, "", (2, 3, 32, 32)),
        Row("model.maxformer", "maxformer_10_384", few, "", batch),
        Row("model.spike_driven_transformer", "sdt_8_384", few, "", batch),
        Row("model.spiking_vggws_ottt", "ottt_spiking_vgg11", {"num_classes": 10}, "s", batch),
        Row("examples.lif_fc_mnist", "SNN", {"tau": 2.0}, "s", (2, 1, 28, 28)),
        Row("examples.conv_fashion_mnist", "CSNN", {"T": 4, "channels": 8}, "", (2, 1, 28, 28)),
        Row("examples.rsnn_sequential_fmnist", "PlainNet", {}, "s", (2, 28)),
        Row("examples.rsnn_sequential_fmnist", "StatefulSynapseNet", {}, "s", (2, 28)),
        Row("examples.rsnn_sequential_fmnist", "FeedBackNet", {}, "s", (2, 28)),
        Row("examples.spiking_lstm_sequential_mnist", "Net", {}, "", (2, 28, 28)),
        Row("examples.speech_commands", "Net", {}, "", (2, 3, 101, 40)),
    ]
    return found


def logits_of(output: Any) -> Tensor:
    """[N, K] of whatever a model gives."""
    tensor = next(t for t in tensors_in(output) if t.ndim in (2, 3))
    return tensor if tensor.ndim == 2 else tensor.mean(0)


def by_hand(model: nn.Module, x: Tensor) -> bool:
    """Whether the heads' logits are those of the tapped outputs, on the axes that they look at."""
    heads = shortcut_branches(model)
    seen: dict[str, list[Tensor]] = {name: [] for name in heads}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _, args, out, name=name: seen[name].append(first_tensor(out))
        )
        for name in heads
    ]
    model.eval()
    with torch.no_grad(), shortcuts_enabled(model):
        model(x)
        told = shortcut_logits(model)
    functional.reset_net(model)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        for name, branch in heads.items():
            width = branch.channels
            mine = torch.stack([branch.head(arranged(f, width)) for f in seen[name]]).mean(0)
            if not torch.allclose(told[name], mine, atol=1e-4):
                return False
    return True


def arranged(feature: Tensor, width: int) -> Tensor:
    """``[N, C, ...]``: these models have time first, and channels next or, of tokens, last."""
    has_time = feature.ndim in (3, 5) or feature.ndim == 4 and feature.shape[1] != width
    x = feature.mean(0) if has_time else feature
    return x if x.shape[1] == width else x.movedim(-1, 1)


def line(row: Row) -> str | None:
    """One line of the table; ``None`` of what this SpikingJelly does not have."""
    try:
        build: Callable[..., nn.Module] = getattr(
            importlib.import_module(f"{BASE}.{row.module}"), row.name
        )
    except (ImportError, AttributeError):
        return None
    torch.manual_seed(0)
    model = build(**row.make)
    if row.mode:
        functional.set_step_mode(model, row.mode)
    title = f"`{row.module.split('.', 1)[1]}.{row.name}`"
    own = sum(p.numel() for p in model.parameters())
    try:
        wrap_with_shortcuts(model)
        x = torch.rand(row.shape)
        logits = logits_of(model(x))
        target = torch.arange(len(logits))
        ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(1.0))(logits, target).backward()
        functional.reset_net(model)
    except (ValueError, TypeError, RuntimeError) as error:
        return f"| {title} | - | - | no: {str(error)[:120]} |"
    heads = shortcut_branches(model)
    reached = all(p.grad is not None for b in heads.values() for p in b.parameters())
    more = sum(p.numel() for b in heads.values() for p in b.parameters()) / own
    right = reached and by_hand(model, x)
    places = ", ".join(f"`{name}`" for name in heads)
    return f"| {title} | {places} | {100 * more:.1f} % | {'yes' if right else 'no'} |"


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    print('| Model | Heads of `"auto"` | Parameters added | Right with the model alone |')
    print("|---|---|---|---|")
    for text in filter(None, map(line, rows())):
        print(text, flush=True)


if __name__ == "__main__":
    main()
