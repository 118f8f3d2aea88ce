"""Counts of one layer's gradients, against gradients taken by hand."""

import copy

import pandas as pd
import pytest
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from sj_shortcut import ShortcutLoss, gradient_histogram, shortcut_branches
from sj_shortcut.gradients.histogram import gradient_histogram as same_function
from tests.gradients.tools import batches, criterion, hooks_on, wrapped
from tests.nets.small import Net, images, labels, same
from tests.refusals import refused


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def by_hand(model: nn.Module, loss_fn: nn.Module, many: list, name: str) -> Tensor:
    """All gradients of a layer's weight, of each batch."""
    model = copy.deepcopy(model).train()
    weight = model.get_submodule(name).weight
    found = []
    for x, y in many:
        functional.reset_net(model)
        found.append(torch.autograd.grad(loss_fn(model(x).mean(0), y), weight)[0].flatten())
    return torch.cat(found).double()


def counted(grads: Tensor, low: float, high: float) -> int:
    return int(((grads > low) & (grads <= high)).sum())


def test_every_gradient_is_counted_once_in_its_bin() -> None:
    model, many = Net(), batches(3)
    grads = by_hand(model, criterion, many, "layer1.0")
    frame = gradient_histogram(model, criterion, many, run="a", epoch=2)
    assert frame["count"].sum() == len(grads) == 3 * 8 * 16
    assert (frame["count"] > 0).all()
    assert frame["low"].is_monotonic_increasing and not frame.duplicated(["low", "high"]).any()
    for row in frame.itertuples():
        if row.low == row.high:
            assert row.low == 0 and row.count == int((grads == 0).sum())
        else:
            # Edges are hit by no gradient, give or take a rounding error.
            near = (grads.abs() - abs(row.low)).abs().min() / abs(row.low)
            assert row.count == counted(grads, row.low, row.high) or near < 1e-9
    edges = frame[frame.high > 0]
    assert (edges.high / edges.low).tolist() == pytest.approx([10 ** (1 / 25)] * len(edges))
    facts = ["run", "epoch", "layer", "depth", "module", "weights", "batches"]
    assert list(frame.columns) == [*facts, "low", "high", "count"]
    values = frame[facts].drop_duplicates().to_numpy().tolist()
    assert values == [["a", 2, "layer1.0", 1, "Linear", 128, 3]]


def test_a_layer_by_name_and_the_share_of_heads() -> None:
    model, many = wrapped(), batches(2)
    loss = ShortcutLoss(model, criterion)
    frame = gradient_histogram(model, loss, many, layer="layer2.0")
    assert frame["layer"].unique().tolist() == ["layer2.0"] and frame["depth"].iloc[0] == 2
    plain = gradient_histogram(model, lambda output, y: criterion(output, y), many, layer="fc")
    with_heads = gradient_histogram(model, loss, many, layer="fc")
    # Heads are before the last layer, which they do not reach.
    pd.testing.assert_frame_equal(plain, with_heads)
    first = gradient_histogram(model, criterion, many)
    assert not first.equals(gradient_histogram(model, loss, many))


def test_bins_of_several_measurements_are_the_same() -> None:
    frames = [gradient_histogram(Net(), criterion, batches(1), bins_per_decade=3) for _ in range(4)]
    edges = {value for frame in frames for value in frame["high"]}
    assert len(edges) <= 3 * 12 * 2  # twelve decades would be plenty
    assert all(len(frame) > 4 for frame in frames)


def test_gradients_that_are_exactly_zero_have_their_own_bin() -> None:
    model = Net()
    frame = gradient_histogram(model, lambda output, y: 0 * output.sum(), batches(2))
    assert frame[["low", "high", "count"]].to_numpy().tolist() == [[0, 0, 256]]


def test_tiny_and_huge_gradients_keep_their_size() -> None:
    model, many = Net(), batches(1)
    one = gradient_histogram(model, criterion, many)
    for factor in (1e-20, 1e15):
        frame = gradient_histogram(model, lambda o, y, f=factor: f * criterion(o, y), many)
        assert frame["count"].sum() == one["count"].sum()
        assert frame["high"].max() == pytest.approx(factor * one["high"].max(), rel=0.1)


@pytest.mark.parametrize("mode", ["m", "s"])
def test_the_model_is_left_as_it_was(mode: str) -> None:
    model = wrapped(mode).eval()
    loss = ShortcutLoss(model, criterion)
    before = copy.deepcopy(model.state_dict()), copy.deepcopy(loss.state_dict())
    many = batches(2)
    hooks, rng = hooks_on(model), torch.get_rng_state()
    frame = gradient_histogram(model, loss, many)
    assert frame["batches"].iloc[0] == 2
    assert same(dict(model.state_dict()), dict(before[0])) and loss.state_dict() == before[1]
    assert hooks_on(model) == hooks and torch.equal(torch.get_rng_state(), rng)
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert shortcut_branches(model)


def test_a_way_of_ones_own_from_batch_to_output() -> None:
    model, many = Net(), batches(1)
    frame = gradient_histogram(model, criterion, many)
    again = gradient_histogram(model, criterion, many, forward=lambda m, x: m(x).mean(0))
    pd.testing.assert_frame_equal(frame, again)


def test_what_cannot_be_measured_is_refused_with_a_reason() -> None:
    one = (images(), labels())
    with refused(
        ValueError,
        "the model has no layer with weights (linear or convolution) called 'layer1.1'. "
        "Did you mean 'layer1.0', 'layer3.0', 'layer2.0'?",
    ):
        gradient_histogram(Net(), criterion, one, layer="layer1.1")
    with refused(ValueError, "batches is empty: pass one (x, y), or an iterable of them."):
        gradient_histogram(Net(), criterion, [])
    with pytest.raises(ValueError, match="128 of 128 gradients of 'layer1.0' are not finite"):
        gradient_histogram(Net(), lambda o, y: float("inf") * criterion(o, y), one)
    frozen = Net()
    frozen.layer1.requires_grad_(False)
    with pytest.raises(ValueError, match="'layer1.0' are frozen"):
        gradient_histogram(frozen, criterion, one)
    with pytest.raises(ValueError, match="no gradient arrives at 'layer1.0'"):
        gradient_histogram(Net(), lambda o, y: extra.sum(), one)
    with pytest.raises(ValueError, match="scalar tensor that depends on the weights"):
        gradient_histogram(Net(), lambda o, y: o, one)
    with pytest.raises(TypeError, match="loss_fn must be callable"):
        gradient_histogram(Net(), 3, one)
    for wrong, error in ((0, ValueError), (2.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="bins_per_decade must be"):
            gradient_histogram(Net(), criterion, one, bins_per_decade=wrong)
    with pytest.raises(ValueError, match="the tag 'count' has the name of a column"):
        gradient_histogram(Net(), criterion, one, count=3)


extra = torch.ones(2, requires_grad=True)


def test_it_is_public() -> None:
    assert gradient_histogram is same_function
