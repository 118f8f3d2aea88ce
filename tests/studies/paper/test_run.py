"""One training of the study of the paper's claims."""

from dataclasses import replace

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import nn

from analysis.paper.nets import SpikingResNet
from analysis.paper.plan import METHODS, quick_plan
from analysis.paper.run import Training, loss_of_every_step
from sj_shortcut import has_shortcuts, shortcut_branches, shortcut_logits

CPU = torch.device("cpu")
VANILLA = quick_plan()[0]


def training(method: str, **changes: object) -> Training:
    return Training(replace(VANILLA, method=method, **changes), CPU)


@pytest.mark.parametrize(("net", "depth"), [("resnet", 18), ("resnet", 34), ("sew", 34)])
def test_networks_are_as_deep_as_they_say(net, depth) -> None:
    model = SpikingResNet(net, depth, 2)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    beside = [m for m in layers if getattr(m, "kernel_size", 0) == (1, 1)]
    assert len(layers) - len(beside) == depth and len(beside) == 3
    sizes = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage.register_forward_hook(lambda module, args, output: sizes.append(output.shape[2:]))
    assert model(torch.rand(2, 3, 3, 32, 32)).shape == (2, 3, 10)
    assert sizes == [(2, 32, 32), (4, 16, 16), (8, 8, 8), (16, 4, 4)]
    functional.reset_net(model)


def test_methods_of_a_seed_start_from_the_same_weights() -> None:
    first = training("vanilla").model.state_dict()
    for method in METHODS:
        own = training(method).model.state_dict()
        assert all(torch.equal(own[name], value) for name, value in first.items()), method
    other = training("vanilla", seed=1).model.state_dict()
    assert not torch.equal(other["stem.0.weight"], first["stem.0.weight"])


@pytest.mark.parametrize("method", ["eq6", "eq10"])
def test_heads_are_the_papers(method) -> None:
    made = training(method)
    branches = shortcut_branches(made.model)
    assert list(branches) == ["layer1.1", "layer2.1", "layer3.1"]
    channels = [branch.head.linear.in_features for branch in branches.values()]
    assert channels == [2, 4, 8]  # one average a channel


@pytest.mark.parametrize(("method", "weight"), [("eq6", 1.0), ("eq10", 0.25)])
def test_the_first_loss_is_that_of_summed_logits(method, weight) -> None:
    made = training(method)
    x, y = made.images.normalised(made.images.train.x[:20]), made.images.train.y[:20]
    output = made.model(x.expand(2, *x.shape)).mean(0)
    loss = made.criterion(output, y)
    logits = output + weight * torch.stack(list(shortcut_logits(made.model).values())).sum(0)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, y))
    functional.reset_net(made.model)


def test_the_papers_coefficient_falls_at_every_step() -> None:
    made = training("eq10", epochs=3, batch=64)  # 200 images: three batches of 64, and one of 8
    found = []
    assert made.schedule is not None
    made.model.register_forward_pre_hook(lambda *args: found.append(made.schedule.coefficient))
    for epoch in range(3):
        made.one_epoch(epoch)
    assert found == pytest.approx([0.25 * (1 - step / 12) for step in range(12)])
    assert made.schedule.coefficient == 0


def test_the_rate_falls_to_nothing_by_a_cosine() -> None:
    made = training("vanilla", epochs=2)
    assert made.optimizer.param_groups[0]["lr"] == 0.01
    made.one_epoch(0)
    assert made.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)
    made.one_epoch(1)
    assert made.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_the_loss_of_every_step() -> None:
    output, target = torch.randn(3, 5, 10), torch.arange(5)
    each = [nn.functional.cross_entropy(output[t], target) for t in range(3)]
    torch.testing.assert_close(loss_of_every_step(output, target), sum(each) / 3)
    assert not has_shortcuts(training("tet").model)


@pytest.mark.slow
def test_training_makes_the_loss_smaller() -> None:
    made = training("defaults", width=8, images=120, epochs=6)
    for epoch in range(6):
        made.one_epoch(epoch)
    losses = [row["loss"] for row in made.history]
    assert losses[-1] < 0.9 * losses[0]


def test_a_finished_network_has_no_heads_and_its_rows_say_all() -> None:
    made = training("eq6")
    made.one_epoch(0)
    row = made.tables()["runs"].iloc[0]
    assert not has_shortcuts(made.model)
    assert 0 <= row["test_with_heads"] <= 1 and 0 < row["firing_rate"] < 1
    assert row["commit"] and row["spikes"] > 0
    plain = training("vanilla")
    plain.one_epoch(0)
    assert plain.tables()["runs"]["test_with_heads"].isna().all()


def test_mixed_precision_trains_the_weights_in_single() -> None:
    made = training("eq10", amp=True)
    kinds = []
    made.model.classifier.register_forward_hook(lambda m, args, output: kinds.append(output.dtype))
    before = made.model.stem[0].weight.clone()
    made.one_epoch(0)
    assert set(kinds) == {torch.bfloat16}
    assert made.model.stem[0].weight.dtype == torch.float32
    assert not torch.equal(before, made.model.stem[0].weight)
