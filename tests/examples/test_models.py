"""Models by name, and of the user's own."""

import argparse

import pytest
import torch
from spikingjelly.activation_based import functional

from tests.examples.scripts import TINY, succeed

MODELS = [
    *("plain:4", "plain:18", "resnet18", "resnet19", "resnet20", "resnet34", "spiking_resnet18"),
    *("sew_resnet18", "spiking_vgg11_bn", "plif_cifar10", "plif_cifar10dvs", "plif_nmnist"),
]


@pytest.mark.parametrize("name", MODELS)
def test_each_model_takes_heads(example_modules, name):
    models, building = example_modules("trainer.models"), example_modules("trainer.building")
    parser = example_modules("train_cifar").build_parser()
    args = example_modules("trainer.settings").parse(parser, ["--model", name, "--T", "2"])
    channels, size = {"plif_cifar10dvs": (2, 128), "plif_nmnist": (2, 34)}.get(name, (3, 32))
    if not name.startswith(("spiking_", "sew_", "plif_")):
        args.width = 8
    model = models.build(args, 10, channels)
    depth = sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in model.modules())
    if name.startswith("plain"):
        assert depth == int(name.removeprefix("plain:"))
    x = torch.rand(1, channels, size, size)
    over_time = building.OverTime(model, 2, "m")
    building.check_output(model, over_time, x, 10, args)
    building.add_method(args, model, over_time.steps(x), 10, torch.nn.CrossEntropyLoss())
    with torch.no_grad():
        assert over_time(x).shape == (2, 1, 10)
    functional.reset_net(model)


def test_both_surrogates_are_what_the_help_says(example_modules):
    models = example_modules("trainer.models")
    x = torch.tensor([-0.75, -0.25, 0.25, 0.75], requires_grad=True)
    for name, expected in (("triangle", [0.25, 0.75, 0.75, 0.25]), ("rectangle", [0, 1, 1, 0])):
        args = argparse.Namespace(surrogate=name, decay=0.25, threshold=0.5)
        spike = models.neuron_settings(args)["surrogate_function"](x)
        assert spike.tolist() == [0, 0, 1, 1]
        (grad,) = torch.autograd.grad(spike.sum(), x)
        assert grad.tolist() == expected


def test_a_model_of_the_users_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "from spikingjelly.activation_based import layer, neuron\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(layer.Flatten(), layer.Linear(64, 16), neuron.LIFNode(),\n"
        "        layer.Linear(16, 12), neuron.LIFNode(), layer.Linear(12, num_classes))\n"
    )
    flags = [*TINY[:2], *TINY[6:], "--model", "mine:net", "--epochs", "1", "--step-mode", "s"]
    args = [*flags, "--out", tmp_path / "run"]
    done = succeed("train_cifar.py", *args, log=tmp_path / "log", cwd=tmp_path)
    assert "1 head at 2" in done.out
