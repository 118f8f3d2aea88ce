"""The channel axis, seen by which channel of a layer with weights each slice comes from."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sj_shortcut.places.channel_axis import channel_axis, channels_by_gradients
from sj_shortcut.places.example_pass import Sight


@pytest.mark.parametrize(
    ("norm", "shape", "due"),
    [
        (nn.LayerNorm(4), (2, 4, 4), -1),
        (nn.LayerNorm([4, 4]), (2, 4, 4), None),
        (nn.BatchNorm2d(4), (2, 4, 4, 4), -3),
        (nn.BatchNorm3d(4), (2, 4, 4, 4, 4), -4),
        (nn.GroupNorm(2, 4), (2, 4, 3), -2),
        (nn.GroupNorm(2, 4), (2, 4, 4), None),
        (nn.BatchNorm1d(4), (2, 4), -1),
        (nn.BatchNorm1d(4), (2, 4, 4), None),
        (nn.ReLU(), (2, 4, 3), None),
    ],
)
def test_norms_have_it_where_sizes_and_their_kind_leave_no_doubt(norm, shape, due):
    assert channel_axis(sight_of(norm, torch.rand(shape))) == due


@pytest.mark.parametrize(
    ("layer", "due"),
    [
        (nn.Linear(2, 3), -1),
        (nn.Conv1d(2, 3, 1), -2),
        (nn.Conv2d(2, 3, 1), -3),
        (nn.ConvTranspose2d(2, 3, 1), -3),
        (nn.Conv3d(2, 3, 1), -4),
    ],
)
def test_layers_with_weights_have_it_where_pytorch_says(layer, due):
    assert channel_axis(sight_of(layer, torch.rand(1))) == due


def sight_of(module: nn.Module, output: Tensor) -> Sight:
    return Sight("", module, 0, shape=tuple(output.shape), outputs=[output])


def source_of(shape: tuple[int, ...]) -> tuple[Sight, Tensor]:
    """A convolution's output ``[N, C, H, W]``, and it once more to go on with."""
    output = (1 + torch.rand(shape)).requires_grad_() * 1
    return sight_of(nn.Conv2d(1, shape[1], 1), output), output


sizes = st.tuples(*[st.integers(2, 4)] * 4)


@given(sizes, st.permutations(range(4)))
def test_it_is_seen_wherever_it_was_moved(shape, order):
    source, output = source_of(shape)
    feature = sight_of(nn.Identity(), (2 * output).permute(*order))
    left = [axis for axis in range(4) if order[axis] != 0]  # all but the batch
    assert channels_by_gradients(feature, source, left) == (order.index(1), [order.index(1)])


@given(sizes)
def test_where_channels_are_mixed_no_axis_is_sure(shape):
    source, output = source_of(shape)
    feature = sight_of(nn.Identity(), output + output.mean(1, keepdim=True))
    assert channels_by_gradients(feature, source, [1, 2, 3]) == (None, [])


def test_a_layer_that_the_feature_does_not_come_from_tells_nothing():
    source, _ = source_of((2, 3, 4, 4))
    other = sight_of(nn.Identity(), torch.rand(2, 3, 4, 4, requires_grad=True) * 1)
    assert channels_by_gradients(other, source, [1, 2, 3]) is None


def test_a_single_channel_that_arrives_tells_nothing():
    """As where a surrogate function lets the gradient of only one channel through."""
    source, output = source_of((2, 3, 4, 4))
    feature = sight_of(nn.Identity(), output * torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1))
    assert channels_by_gradients(feature, source, [1, 2, 3]) is None


@pytest.mark.parametrize("shape", [(2, 1, 3, 3), None])
def test_a_layer_of_one_channel_or_without_gradients_tells_nothing(shape):
    source, output = source_of(shape or (2, 3, 4, 4))
    if shape is None:
        source.outputs = []
    assert channels_by_gradients(sight_of(nn.Identity(), output * 2), source, [1, 2]) is None


def test_the_busiest_slices_are_asked():
    """Of a layer that hardly fires: most slices got nothing from anywhere."""
    source, output = source_of((2, 6, 3, 3))
    fires = torch.zeros(6)
    fires[[2, 5]] = 1
    feature = sight_of(nn.Identity(), output * fires.view(1, 6, 1, 1))
    assert channels_by_gradients(feature, source, [1, 2, 3])[0] == 1


def test_what_a_norm_has_centred_over_all_channels_tells_no_axis_either():
    """Its sum over an axis of a single slice is 0 whatever the channels are."""
    source, output = source_of((1, 2, 1, 2))
    feature = sight_of(nn.Identity(), output - output.mean((1, 2, 3), keepdim=True))
    assert channels_by_gradients(feature, source, [1, 2, 3]) == (None, [])


def test_where_slices_along_some_axes_show_nothing_nothing_is_told():
    """As of parts side by side, where a surrogate function stops the gradient of one of them."""
    source, output = source_of((2, 2, 3, 3))
    both = torch.cat([output + output.mean(1, keepdim=True), torch.rand(2, 2, 3, 3)], 1)
    reaches = torch.tensor([0.0, 0.0, 1.0, 1.0]).view(1, 4, 1, 1)
    both.register_hook(lambda grad: grad * reaches if grad[:, 2:].any() else grad)
    feature = sight_of(nn.Identity(), both)
    assert channels_by_gradients(feature, source, [1, 2, 3]) is None
