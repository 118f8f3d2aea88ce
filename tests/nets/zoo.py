"""Small models of every kind that people build with SpikingJelly, for the tests to wrap.

Models of SpikingJelly itself are taken as they are where that is affordable on a CPU, and made
narrower through their own constructors where it is not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.model import (
    parametric_lif_net,
    sew_resnet,
    spiking_resnet,
    spiking_vgg,
)
from torch import Tensor, nn

try:
    from spikingjelly.activation_based.model.ms_resnet import MSResNet
    from spikingjelly.activation_based.model.qkformer import QKFormer
    from spikingjelly.activation_based.model.spikformer import Spikformer
except ImportError:  # SpikingJelly 0.0.0.0.14
    MSResNet = QKFormer = Spikformer = None

SECOND_GENERATION = Spikformer is not None


@dataclass(frozen=True)
class Specimen:
    """A model and how to run it.

    Attributes:
        name: What it is.
        build: Makes it, in step mode 's' where it has a choice.
        shape: Shape of one sample at one time step.
        classes: Width of its logits.
        modes: Step modes it runs in.
        here: Whether the installed SpikingJelly has it.
        steps: Time steps T.
        batch: Batch size N.
        read: Takes the logits out of its output.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int = 10
    modes: str = "ms"
    here: bool = True
    steps: int = 2
    batch: int = 2
    read: Callable[[Any], Tensor] = staticmethod(lambda output: output)

    def make(self, mode: str, seed: int = 0) -> nn.Module:
        """The same weights for the same seed."""
        torch.manual_seed(seed)
        model = self.build()
        if self.modes != "m":
            functional.set_step_mode(model, mode)
        return model

    def sequence(self, seed: int = 1) -> Tensor:
        """Input [T, N, ...], strong enough for deep layers to spike."""
        generator = torch.Generator().manual_seed(seed)
        return 2 * torch.rand(self.steps, self.batch, *self.shape, generator=generator)

    def example(self, mode: str) -> Tensor:
        """Input of one forward pass."""
        return self.sequence() if mode == "m" else self.sequence()[0]

    def target(self) -> Tensor:
        return torch.arange(self.batch) % self.classes

    def outputs(self, model: nn.Module, sequence: Tensor, mode: str) -> Tensor:
        """Logits of every time step [T, N, K], or [N, K] of a model that averages by itself."""
        if mode == "m":
            return self.read(model(sequence))
        return torch.stack([self.read(model(step)) for step in sequence])

    def logits(self, model: nn.Module, sequence: Tensor, mode: str) -> Tensor:
        """Logits [N, K], averaged over time."""
        outputs = self.outputs(model, sequence, mode)
        return outputs if outputs.ndim == 2 else outputs.mean(0)


# A threshold low enough for spikes to reach the last layer of an untrained network.
LIVELY = {"v_threshold": 0.1, "detach_reset": True}


def lif(**kwargs: Any) -> neuron.LIFNode:
    return neuron.LIFNode(**LIVELY, **kwargs)


def vgg11_bn() -> nn.Module:
    """spiking_vgg11_bn at an eighth of its width.

    Its constructor makes a classifier of 119 million weights whatever the width. On the meta
    device that costs nothing, and a smaller one takes its place before any weight exists.
    """
    cfg = [8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"]
    with torch.device("meta"):
        model = spiking_vgg.SpikingVGG(
            cfg, batch_norm=True, num_classes=10, spiking_neuron=neuron.LIFNode, **LIVELY
        )
        model.avgpool = layer.AdaptiveAvgPool2d(1)
        model.classifier[0] = layer.Linear(64, 32)
        model.classifier[3] = layer.Linear(32, 32)
        model.classifier[6] = layer.Linear(32, 10)
    model.to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model


def plif_net(name: str, channels: int) -> nn.Module:
    return getattr(parametric_lif_net, name)(
        channels=channels, spiking_neuron=neuron.ParametricLIFNode, **LIVELY
    )


def ms_resnet() -> nn.Module:
    return MSResNet(T=2, num_classes=10, layers=(1, 2, 1), base_channels=4, v_threshold=0.1)


def spikformer() -> nn.Module:
    return Spikformer(
        T=2,
        img_size_h=16,
        img_size_w=16,
        patch_size=4,
        num_classes=10,
        embed_dims=16,
        num_heads=2,
        mlp_ratio=2.0,
        depths=3,
        v_threshold=0.1,
    )


def qkformer() -> nn.Module:
    return QKFormer(
        T=2,
        num_classes=10,
        embed_dims=16,
        num_heads=(1, 2, 2),
        depths=(1, 1, 2),
        mlp_ratio=2.0,
        v_threshold=0.1,
    )


def conv_net() -> nn.Sequential:
    """Without batch norm, so that both step modes compute the same."""
    return nn.Sequential(
        layer.Conv2d(3, 8, 3, padding=1),
        lif(),
        layer.Conv2d(8, 8, 3, padding=1),
        lif(),
        layer.MaxPool2d(2, 2),
        layer.Conv2d(8, 16, 3, padding=1),
        lif(),
        layer.AdaptiveAvgPool2d(1),
        layer.Flatten(),
        layer.Linear(16, 10),
    )


def conv_bn(width_in: int, width: int, spiking: nn.Module, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        layer.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False),
        layer.BatchNorm2d(width),
        spiking,
    )


def readout(width: int, classes: int = 10) -> nn.Sequential:
    return nn.Sequential(layer.AdaptiveAvgPool2d(1), layer.Flatten(), layer.Linear(width, classes))


def nested() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(conv_bn(3, 8, lif()), conv_bn(8, 8, lif())),
        nn.Sequential(conv_bn(8, 16, lif(), stride=2), nn.Sequential(conv_bn(16, 16, lif()))),
        readout(16),
    )


def learnable_tau() -> nn.Sequential:
    return nn.Sequential(
        conv_bn(3, 8, neuron.ParametricLIFNode(init_tau=1.5, **LIVELY)),
        conv_bn(8, 16, neuron.ParametricLIFNode(init_tau=3.0, **LIVELY), stride=2),
        conv_bn(16, 16, neuron.ParametricLIFNode(init_tau=2.0, **LIVELY)),
        readout(16),
    )


def ann_layers(*layers: nn.Module) -> layer.SeqToANNContainer:
    """Plain layers that see time and batch as one axis."""
    return layer.SeqToANNContainer(*layers)


def seq_to_ann() -> nn.Sequential:
    return nn.Sequential(
        ann_layers(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)),
        lif(step_mode="m"),
        ann_layers(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.AvgPool2d(2)),
        lif(step_mode="m"),
        ann_layers(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)),
        lif(step_mode="m"),
        ann_layers(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )


def multi_step() -> nn.Sequential:
    """Containers that call their layers once a time step."""
    return nn.Sequential(
        layer.MultiStepContainer(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), lif()),
        layer.MultiStepContainer(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), lif()),
        layer.MultiStepContainer(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), lif()),
        ann_layers(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )


def psn() -> nn.Sequential:
    model = nn.Sequential(
        conv_bn(3, 8, neuron.PSN(T=2)),
        conv_bn(8, 16, neuron.PSN(T=2), stride=2),
        conv_bn(16, 16, neuron.PSN(T=2)),
        readout(16),
    )
    functional.set_step_mode(model, "m")
    return model


def features() -> nn.Sequential:
    """Features [T, N, C] all the way."""
    return nn.Sequential(
        layer.Linear(12, 24), lif(), layer.Linear(24, 16), lif(), layer.Linear(16, 8), lif(),
        layer.Linear(8, 10),
    )  # fmt: skip


def sound() -> nn.Sequential:
    """Features [T, N, C, L]."""
    return nn.Sequential(
        layer.Conv1d(2, 8, 5, padding=2),
        layer.BatchNorm1d(8),
        lif(),
        layer.Conv1d(8, 8, 5, stride=2, padding=2),
        layer.BatchNorm1d(8),
        lif(),
        layer.Conv1d(8, 16, 5, stride=2, padding=2),
        layer.BatchNorm1d(16),
        lif(),
        layer.AdaptiveAvgPool1d(1),
        layer.Flatten(),
        layer.Linear(16, 10),
    )


def spiking_output() -> nn.Sequential:
    """Classified by the rates of ten neurons."""
    return nn.Sequential(
        layer.Linear(12, 24), lif(), layer.Linear(24, 16), lif(), layer.Linear(16, 10), lif()
    )


class ShortcutBlock(nn.Module):
    """A residual block whose identity branch is called `shortcut`, as in many code bases."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.residual_function = nn.Sequential(
            layer.Conv2d(width_in, width, 1, bias=False),
            layer.BatchNorm2d(width),
            lif(),
            layer.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
            layer.BatchNorm2d(width),
            lif(),
            layer.Conv2d(width, width, 1, bias=False),
            layer.BatchNorm2d(width),
        )
        self.shortcut = nn.Sequential(
            layer.Conv2d(width_in, width, 1, stride=2, bias=False), layer.BatchNorm2d(width)
        )
        self.spike = lif()

    def forward(self, x: Tensor) -> Tensor:
        return self.spike(self.residual_function(x) + self.shortcut(x))


def own_shortcut() -> nn.Sequential:
    return nn.Sequential(
        conv_bn(3, 8, lif()), ShortcutBlock(8, 16), ShortcutBlock(16, 32), readout(32)
    )


class PreActivationBlock(nn.Module):
    """Spikes first, sums last: its output is a real number, as in MS-ResNet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spike1 = lif()
        self.conv1 = layer.Conv2d(width, width, 3, padding=1, bias=False)
        self.spike2 = lif()
        self.conv2 = layer.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.spike2(self.conv1(self.spike1(x))))


class PreActivationNet(nn.Module):
    """Blocks of sums, and one last neuron before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = layer.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(
            PreActivationBlock(8), PreActivationBlock(8), PreActivationBlock(8)
        )
        self.head_lif = lif()
        self.pool = layer.AdaptiveAvgPool2d(1)
        self.flatten = layer.Flatten()
        self.head = layer.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.pool(self.head_lif(self.blocks(self.stem(x))))))


class WithOutput(nn.Module):
    """Returns its logits together with other things."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.body = conv_net()[:-1]
        self.head = layer.Linear(16, 10)
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        feature = self.body(x)
        return self.pack(self.head(feature), feature)


def pack_dict(logits: Tensor, feature: Tensor) -> dict[str, Any]:
    return {"logits": logits, "feature": feature.detach(), "version": 1}


def pack_tuple(logits: Tensor, feature: Tensor) -> tuple[Any, ...]:
    return (None, logits, [feature.detach()])


def resnet(depth: int) -> nn.Module:
    build = getattr(spiking_resnet, f"spiking_resnet{depth}")
    return build(spiking_neuron=neuron.LIFNode, num_classes=10, **LIVELY)


def sew_resnet18() -> nn.Module:
    return sew_resnet.sew_resnet18(
        cnf="ADD", spiking_neuron=neuron.LIFNode, num_classes=10, **LIVELY
    )


ZOO = {
    specimen.name: specimen
    for specimen in (
        Specimen("spiking_resnet18", lambda: resnet(18), (3, 32, 32)),
        Specimen("spiking_resnet34", lambda: resnet(34), (3, 32, 32)),
        Specimen("sew_resnet18", sew_resnet18, (3, 32, 32)),
        Specimen("spiking_vgg11_bn", vgg11_bn, (3, 32, 32)),
        Specimen("mnist_net", lambda: plif_net("MNISTNet", 2), (1, 28, 28)),
        Specimen("cifar10_net", lambda: plif_net("CIFAR10Net", 4), (3, 32, 32)),
        Specimen("cifar10_dvs_net", lambda: plif_net("CIFAR10DVSNet", 2), (2, 128, 128)),
        Specimen("dvs_gesture_net", lambda: plif_net("DVSGestureNet", 4), (2, 128, 128), 11),
        Specimen("ms_resnet", ms_resnet, (3, 16, 16), modes="m", here=SECOND_GENERATION),
        Specimen("spikformer", spikformer, (3, 16, 16), modes="m", here=SECOND_GENERATION),
        Specimen("qkformer", qkformer, (3, 16, 16), modes="m", here=SECOND_GENERATION),
        Specimen("psn", psn, (3, 8, 8), modes="m", here=hasattr(neuron, "PSN")),
        Specimen("conv_net", conv_net, (3, 8, 8)),
        Specimen("nested", nested, (3, 8, 8)),
        Specimen("learnable_tau", learnable_tau, (3, 8, 8)),
        Specimen("seq_to_ann", seq_to_ann, (3, 8, 8), modes="m"),
        Specimen("multi_step", multi_step, (3, 8, 8), modes="m"),
        Specimen("features", features, (12,)),
        Specimen("sound", sound, (2, 16)),
        Specimen("one_step", conv_net, (3, 8, 8), steps=1),
        Specimen("one_sample", conv_net, (3, 8, 8), batch=1),
        Specimen("one_of_each", features, (12,), steps=1, batch=1),
        Specimen("own_shortcut", own_shortcut, (3, 8, 8)),
        Specimen("pre_activation", PreActivationNet, (3, 8, 8)),
        Specimen("spiking_output", spiking_output, (12,)),
        Specimen(
            "dict_output",
            lambda: WithOutput(pack_dict),
            (3, 8, 8),
            read=lambda output: output["logits"],
        ),
        Specimen(
            "tuple_output", lambda: WithOutput(pack_tuple), (3, 8, 8), read=lambda output: output[1]
        ),
    )
    if specimen.here
}
EVERY = [(name, mode) for name, specimen in ZOO.items() for mode in specimen.modes]
