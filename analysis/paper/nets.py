"""Spiking ResNets for images of 32 x 32 pixels, as the paper's kind: a stem and four stages."""

from __future__ import annotations

from spikingjelly.activation_based import functional, layer
from spikingjelly.activation_based.model import sew_resnet, spiking_resnet
from torch import Tensor, nn

from analysis.common.nets import conv_norm_lif, lif

__all__ = ["BLOCKS", "SpikingResNet"]

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
SURROGATE = "atan"  # the paper does not say which


class SpikingResNet(nn.Module):
    """A convolution at full resolution, four stages of basic blocks, average and classifier.

    Args:
        net: ``"resnet"``, whose sums go through neurons, or ``"sew"``, which adds spikes.
        depth: 18 or 34.
        width: Channels of the first stage; each further one has twice as many.
        classes: Of the output.
        surrogate: Surrogate function of all neurons.
    """

    def __init__(
        self, net: str, depth: int, width: int, classes: int = 10, surrogate: str = SURROGATE
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm_lif(3, width, 1, surrogate))
        channels, stages = width, []
        for stage, blocks in enumerate(BLOCKS[depth]):
            wide = width * 2**stage
            strides = [2 if stage and not i else 1 for i in range(blocks)]
            inputs = [channels, *[wide] * (blocks - 1)]
            pairs = zip(inputs, strides, strict=True)
            stages.append(
                nn.Sequential(*(basic_block(net, i, wide, s, surrogate) for i, s in pairs))
            )
            channels = wide
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.pool = layer.AdaptiveAvgPool2d(1)
        self.flatten = layer.Flatten()
        self.classifier = layer.Linear(channels, classes)
        functional.set_step_mode(self, "m")

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[T, N, K]`` of each time step, of images ``[T, N, 3, S, S]``."""
        x = self.stem(x)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        logits: Tensor = self.classifier(self.flatten(self.pool(x)))
        return logits


def basic_block(net: str, inputs: int, outputs: int, stride: int, surrogate: str) -> nn.Module:
    """SpikingJelly's basic block, with a convolution beside it where the shape changes."""
    beside = None
    if stride > 1 or inputs != outputs:
        beside = nn.Sequential(
            layer.Conv2d(inputs, outputs, 1, stride, bias=False), layer.BatchNorm2d(outputs)
        )
    options = {"spiking_neuron": lif, "shape": surrogate}
    block: nn.Module
    if net == "sew":
        block = sew_resnet.BasicBlock(inputs, outputs, stride, beside, cnf="ADD", **options)
    else:
        block = spiking_resnet.BasicBlock(inputs, outputs, stride, beside, **options)
    return block
