"""Class logits among a model's outputs, and outputs that have none."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer
from torch import Tensor, nn

from sj_shortcut import shortcut_points, wrap_with_shortcuts
from sj_shortcut.places.classes import class_logits, main_output, why_no_classes, without_ones
from tests.nets.small import Net, images
from tests.nets.zoo import lif


def test_axes_of_size_1_at_the_end_do_not_count():
    assert without_ones((2, 10, 1, 1)) == (2, 10)
    assert without_ones((2, 1)) == (2, 1) and without_ones((5, 2, 1)) == (5, 2)


@pytest.mark.parametrize(
    ("shapes", "classes", "main"),
    [
        ([(5, 10)], None, 0),
        ([(5, 8, 32, 32), (5, 10)], None, 1),  # features beside logits
        ([(5, 64), (5, 10)], 10, 1),
        ([(5, 64), (5, 20)], 10, 0),
        ([(3, 5, 1), (3, 5, 4)], None, 1),  # a critic's value at every time step
        ([(5, 1), (5, 1, 1, 1), (5, 4, 1, 1)], None, 2),
        ([(5, 10, 1)], None, 0),
        ([(5, 8, 32, 32)], None, 0),  # for the refusal to name
        ([], None, None),
    ],
)
def test_the_output_that_can_be_logits(shapes, classes, main):
    assert main_output([torch.zeros(shape) for shape in shapes], classes) == main


def test_an_output_of_all_layers_of_another_and_more_comes_after_it():
    features, logits = torch.zeros(5, 64), torch.zeros(5, 10)
    assert main_output([features, logits], None, [{"f"}, {"f", "fc"}]) == 1
    assert main_output([features, logits], None, [{"f", "aux"}, {"f", "fc"}]) == 0
    assert main_output([logits, features], None, [{"f", "fc"}, {"f"}]) == 0


@pytest.mark.parametrize("classes", [None, 10])
@pytest.mark.parametrize(
    ("shapes", "depths", "main"),
    [
        ([(5, 10), (5, 10), (5, 10)], [1, 2, 3], 2),  # exits, shallow to deep
        ([(5, 10), (5, 10), (5, 10)], [3, 2, 1], 0),
        ([(5, 10), (5, 10)], [2, 2], 0),
        ([(4, 5, 10), (5, 10)], [1, 2], 1),
        ([(5, 10), (5, 2)], [2, 3], 0),  # a deeper classifier of something else
    ],
)
def test_of_several_exits_the_deepest_is_the_main_one(shapes, depths, main, classes):
    outputs = [torch.zeros(shape) for shape in shapes]
    # Each exit has a layer of its own behind those of the backbone.
    layers = [{*range(depth), f"exit {i}"} for i, depth in enumerate(depths)]
    assert main_output(outputs, classes, layers, depths) == main
    assert main_output(outputs, classes) == 0


def test_class_logits_are_those_as_wide_as_the_main_ones():
    shapes = [(5, 10), (5, 10, 4, 4), (3, 5, 10), (5, 10, 1, 1), (5, 2), (5,)]
    outputs = [torch.zeros(shape) for shape in shapes]
    assert class_logits(outputs, 0) == [0, 2, 3]
    assert class_logits(outputs, 4) == [4] and class_logits(outputs, None) == []
    assert class_logits(outputs, 1) == [1]  # for the refusal to name


@pytest.mark.parametrize(
    ("shape", "positions", "says"),
    [
        ((), False, "is a scalar, one number for the whole batch"),
        ((5,), False, r"\[5\] is a scalar a sample, as in regression"),
        ((5, 3, 32, 32), False, "a map of values, a dense prediction"),
        ((5, 7, 3), True, r"\[5, 7, 3\] has one row a position or token"),
    ],
)
def test_why_an_output_has_no_class_logits(shape, positions, says):
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(why_no_classes(shape, positions=positions))
    assert "class logits [N, K]" in why_no_classes(shape, positions=positions)


@pytest.mark.parametrize("shape", [(5, 10), (4, 5, 10), (5, 1), (5, 10, 1, 1)])
def test_outputs_that_may_have(shape):
    assert why_no_classes(shape, positions=False) == ""


class Ends(Net):
    """Ends in what it is told to."""

    def __init__(self, end: nn.Module) -> None:
        super().__init__("s")
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(super().forward(x))


class Total(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


@pytest.mark.parametrize(
    ("end", "says"), [(nn.Flatten(0), "scalar a sample"), (Total(), "one number for the whole")]
)
def test_a_model_without_class_logits_is_refused_before_anything_is_changed(end, says):
    model = Ends(end)
    before = repr(model)
    with pytest.raises(ValueError, match=says):
        wrap_with_shortcuts(model, example_input=images()[0])
    assert repr(model) == before and not model._forward_hooks


def test_a_prediction_for_each_position_is_refused():
    model = nn.Sequential(
        layer.Conv1d(2, 6, 3, padding=1), lif(), layer.Conv1d(6, 6, 3, padding=1), lif(),
        layer.Conv1d(6, 4, 1),
    )  # fmt: skip
    x = torch.rand(3, 2, 9)
    assert "one row a position or token" in shortcut_points(model, x).refusal
    functional.set_step_mode(model, "m")
    with pytest.raises(ValueError, match="dense prediction"):
        wrap_with_shortcuts(model, example_input=torch.rand(2, 3, 2, 9))
