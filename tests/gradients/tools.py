"""What several tests of measurements use."""

import pandas as pd
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from sj_shortcut import GradientRecorder, wrap_with_shortcuts
from tests.nets.small import Net, images, labels

criterion = nn.CrossEntropyLoss()


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    return [(images(6), labels(6)) for _ in range(count)]


def wrapped(mode: str = "m") -> nn.Module:
    model = Net(mode)
    wrap_with_shortcuts(model)
    return model


def layers_of(model: nn.Module) -> dict[str, nn.Linear]:
    names = ("layer1.0", "layer2.0", "layer3.0", "fc")
    return {name: model.get_submodule(name) for name in names}


def autograd(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    weights = [module.weight for module in layers_of(model).values()]
    grads = torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=True)
    return {
        name: torch.zeros_like(module.weight) if grad is None else grad
        for (name, module), grad in zip(layers_of(model).items(), grads, strict=True)
    }


def hooks_on(model: nn.Module) -> int:
    return sum(
        len(table)
        for module in model.modules()
        for name, table in vars(module).items()
        if "hooks" in name and isinstance(table, dict)
    )


def train_step(model: nn.Module, recorder: GradientRecorder | None = None, **tags: object) -> None:
    loss = nn.functional.cross_entropy(model(images()).mean(0), labels())
    model.zero_grad()
    loss.backward()
    if recorder is not None:
        recorder.step(**tags)
    functional.reset_net(model)


def record(model: nn.Module, **options: object) -> pd.DataFrame:
    with GradientRecorder(model, **options) as recorder:
        train_step(model, recorder)
    return recorder.frame.set_index("layer")


class SlowSigmoid(nn.Module):
    """A surrogate function that no fused kernel knows."""

    def forward(self, x: Tensor) -> Tensor:
        smooth = torch.sigmoid(4 * x)
        return (x >= 0).to(x) + smooth - smooth.detach()


def linear_net(surrogate_function: nn.Module, mode: str) -> nn.Sequential:
    torch.manual_seed(0)
    lif = {"surrogate_function": surrogate_function, "detach_reset": True, "v_threshold": 0.3}
    model = nn.Sequential(
        layer.Linear(8, 16, bias=False),
        neuron.LIFNode(**lif),
        layer.Linear(16, 12, bias=False),
        neuron.LIFNode(**lif),
        layer.Linear(12, 4, bias=False),
    )
    functional.set_step_mode(model, mode)
    return model
