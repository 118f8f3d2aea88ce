"""What modules alone tell: blocks, chains, widths, in the order of definition."""

import pytest
from spikingjelly.activation_based import layer, neuron
from torch import Tensor, nn

from sj_shortcut.places.read_modules import Place, read_modules
from tests.nets.zoo import conv_net, features, lif
from tests.places.tools import chosen


def tree(place: Place) -> dict[str, tuple[bool, int | None]]:
    return {p.name: (p.chain, p.width) for p in place.all_places()}


def test_places_are_what_holds_neurons_and_the_whole_comes_last():
    root, weights = read_modules(features())
    assert list(tree(root)) == ["1", "3", "5", ""]
    assert [place.width for place in root.parts] == [24, 16, 8]
    assert [place.weights_before for place in root.parts] == [1, 2, 3]
    assert weights == ["0", "2", "4", "6"]
    assert root.chain and not any(place.spatial for place in root.parts)


def test_a_model_without_neurons_has_no_place_but_itself():
    root, weights = read_modules(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    assert (root.parts, weights) == ([], ["0"])


class Chained(nn.Module):
    """A module that runs a chain of so many neurons."""

    def __init__(self, neurons: int) -> None:
        super().__init__()
        parts = [part for _ in range(neurons) for part in (layer.Linear(4, 4), lif())]
        self.chain = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.chain(x)


@pytest.mark.parametrize("neurons", range(1, 7))
def test_a_module_of_up_to_three_neurons_is_a_block_and_a_longer_one_a_network(neurons):
    model = nn.Sequential(Chained(neurons), layer.Linear(4, 4), lif(), layer.Linear(4, 2))
    block, steps = ["0"], [f"0.chain.{i}" for i in range(1, 2 * neurons, 2)]
    assert chosen(model, "all") == (block if neurons <= 3 else steps)
    root, _ = read_modules(model)
    assert root.parts[0].chain == (neurons > 3)


def test_lists_are_chains_that_are_never_called():
    model = nn.Module()
    model.blocks = nn.ModuleList([Chained(1), Chained(2)])
    root, _ = read_modules(model)
    (blocks,) = root.parts
    assert blocks.is_list and blocks.chain
    assert [(p.name, p.is_list) for p in blocks.parts] == [("blocks.0", False), ("blocks.1", False)]


def test_a_module_of_two_names_has_both():
    shared = nn.Sequential(layer.Linear(4, 4), lif())
    model = nn.Module()
    model.first, model.again = shared, shared
    root, weights = read_modules(model)
    assert {p.name: p.aliases for p in root.all_places()} == {
        "first.1": ("first.1", "again.1"),
        "first": ("first", "again"),
        "": (),
    }
    assert weights == ["first.0"]


@pytest.mark.parametrize(
    ("before", "width", "spatial"),
    [
        ([layer.Linear(4, 8)], 8, False),
        ([layer.Conv1d(2, 6, 3)], 6, True),
        ([layer.Conv2d(2, 6, 3), layer.BatchNorm2d(6)], 6, True),
        ([nn.ConvTranspose2d(2, 5, 3)], 5, True),
        ([layer.Conv2d(2, 6, 3), layer.Flatten()], None, False),
        ([layer.Linear(4, 20), layer.VotingLayer(5)], 4, False),
        ([nn.Identity()], None, False),
    ],
)
def test_the_last_layer_before_tells_width_and_space(before, width, spatial):
    (place,) = read_modules(nn.Sequential(*before, lif()))[0].parts
    assert (place.width, place.spatial) == (width, spatial)


@pytest.mark.parametrize(
    ("between", "changes"),
    [
        (layer.MaxPool2d(2), True),
        (layer.Conv2d(4, 4, 3, stride=2), True),
        (layer.AdaptiveAvgPool2d(2), True),
        (nn.Upsample(scale_factor=2), True),
        (layer.Conv2d(4, 4, 3), False),
        (layer.BatchNorm2d(4), False),
    ],
)
def test_what_changes_the_resolution_is_noticed(between, changes):
    first, second = read_modules(nn.Sequential(layer.Conv2d(2, 4, 3), lif(), between, lif()))[
        0
    ].parts
    assert (first.resolution != second.resolution) == changes


def test_neurons_of_the_users_count_where_they_are_named():
    class Own(nn.Module):
        pass

    model = nn.Sequential(layer.Linear(4, 8), Own(), nn.Sequential(layer.Linear(8, 8), lif()))
    assert list(tree(read_modules(model)[0])) == ["2.1", "2", ""]
    assert list(tree(read_modules(model, (Own,))[0])) == ["1", "2.1", "2", ""]
    assert isinstance(read_modules(conv_net())[0].parts[0].module, neuron.BaseNode)
