"""What `at=` makes of the places of a model."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from sj_shortcut import (
    remove_shortcuts,
    shortcut_branches,
    shortcut_points,
    wrap_with_shortcuts,
)
from sj_shortcut.places.at import LONGEST_STRETCH, choose_points
from tests.nets.zoo import ZOO, lif, nested
from tests.places.tools import chosen

NESTED = nested()  # for tests that only look at it


def chain(depth: int) -> nn.Sequential:
    """So many automatic points, and the classifier's own feature."""
    layers = [nn.Sequential(layer.Linear(4, 4), lif()) for _ in range(depth + 1)]
    return nn.Sequential(*layers, layer.Linear(4, 3))


@given(data=st.data(), depth=st.integers(1, 24))
def test_a_number_gives_so_many_points_evenly_spaced(data, depth):
    count = data.draw(st.integers(1, depth))
    names = chosen(chain(depth), count)
    places = [int(name.split(".")[0]) for name in names]
    assert len(set(names)) == count
    assert places == sorted(places)
    # The classifier sits at place `depth`: the gaps, to it and to the input too, are even.
    gaps = [b - a for a, b in pairwise([-1, *places, depth])]
    ideal = (depth + 1) / (count + 1)
    assert set(gaps) <= {math.floor(ideal), math.ceil(ideal)}


@given(depth=st.integers(1, 12))
def test_all_is_the_largest_number(depth):
    every = chosen(chain(depth), "all")
    assert every == chosen(chain(depth), depth) == chosen(chain(depth), np.int64(depth))
    assert len(every) == depth


@pytest.mark.parametrize("count", [0, -1, 4])
def test_a_number_out_of_range_names_the_range(count):
    with pytest.raises(ValueError, match=f"at={count} heads: the model has 3 points"):
        wrap_with_shortcuts(chain(3), count)


@given(depth=st.integers(1, 12))
def test_a_network_of_one_stage_gets_its_middle(depth):
    assert chosen(chain(depth), "stages") == chosen(chain(depth), [f"{depth // 2}.1"])


@given(widths=st.lists(st.integers(2, 4), min_size=2, max_size=10))
def test_stages_end_where_the_width_changes(widths):
    layers = [
        nn.Sequential(layer.Linear(a, b), lif()) for a, b in zip([5, *widths], widths, strict=False)
    ]
    ends = [f"{i}.1" for i, (a, b) in enumerate(pairwise(widths)) if a != b]
    if ends:  # of one stage: see above
        assert chosen(nn.Sequential(*layers, layer.Linear(widths[-1], 3)), "stages") == ends


def test_auto_is_the_default():
    assert list(shortcut_branches(wrap_with_shortcuts(chain(9)))) == chosen(chain(9), "auto")
    assert chosen(chain(9), "auto") != chosen(chain(9), "stages")


@given(widths=st.lists(st.integers(2, 4), min_size=2, max_size=16))
def test_auto_is_the_stage_ends_and_what_leaves_no_stretch_long(widths):
    layers = [
        nn.Sequential(layer.Linear(a, b), lif()) for a, b in zip([5, *widths], widths, strict=False)
    ]
    model = nn.Sequential(*layers, layer.Linear(widths[-1], 3))
    places = [int(name.split(".")[0]) for name in chosen(model, "auto")]
    remove_shortcuts(model)
    ends = {int(name.split(".")[0]) for name in chosen(model, "stages")}
    assert ends <= set(places) and places == sorted(set(places))
    # The last spiking layer is the classifier's own feature, fed by the loss of the output.
    gaps = [b - a for a, b in pairwise([-1, *places, len(widths) - 1])]
    assert max(gaps) <= LONGEST_STRETCH
    # As few as that takes: between two ends, gaps are even and one less would be too long.
    bounds = [-1, *sorted(ends), len(widths) - 1]
    for start, end in pairwise(bounds):
        inside = [place for place in places if start < place < end]
        assert len(inside) == math.ceil((end - start) / LONGEST_STRETCH) - 1
        gaps = [b - a for a, b in pairwise([start, *inside, end])]
        assert max(gaps) - min(gaps) <= 1


GLOBS = {
    "layer?.0": [f"layer{i}.0" for i in (1, 2, 3, 4)],
    "layer[12].*": ["layer1.0", "layer1.1", "layer2.0", "layer2.1"],
    "layer[!1].1": ["layer2.1", "layer3.1", "layer4.1"],
    "*": ["sn1", "layer1", "layer2", "layer3", "layer4"],
    "layer3.**": ["layer3.0.sn1", "layer3.0.sn2", "layer3.0", "layer3.1.sn1", "layer3.1.sn2",
                  "layer3.1"],
    "**.sn2": [f"layer{i}.{j}.sn2" for i in (1, 2, 3, 4) for j in (0, 1)],
    "layer2.*.sn1": ["layer2.0.sn1", "layer2.1.sn1"],
}  # fmt: skip


@pytest.mark.parametrize(("pattern", "names"), GLOBS.items(), ids=GLOBS)
def test_patterns(pattern, names):
    with torch.device("meta"):
        model = ZOO["spiking_resnet18"].build()
    assert chosen(model, pattern) == names


def test_several_patterns_give_each_point_once_and_each_must_match():
    assert chosen(nested(), ["0.*.2", "0.0.2", "**.0.2"]) == ["0.0.2", "0.1.2", "1.0.2", "1.1.0.2"]
    before = nested()
    with pytest.raises(ValueError, match=r"at='5\.\*' matches no point"):
        wrap_with_shortcuts(before, ["0.*.2", "5.*"])
    assert repr(before) == repr(nested())


def fits(pattern: str, name: str) -> bool:
    """What a pattern means, without regular expressions: `*` is any run of characters without a
    dot, `**` any run at all, `?` one character but a dot."""
    if not pattern:
        return not name
    if pattern.startswith("**"):
        return any(fits(pattern[2:], name[i:]) for i in range(len(name) + 1))
    if pattern.startswith("*"):
        run = len(name.split(".")[0])
        return any(fits(pattern[1:], name[i:]) for i in range(run + 1))
    same = name[:1] == pattern[0] or (pattern[0] == "?" and name[:1] not in (".", ""))
    return same and fits(pattern[1:], name[1:])


@settings(max_examples=10)
@given(at=st.lists(st.sampled_from(["0", "1", "2", ".", "*", "**", "?"]), min_size=1, max_size=6))
@example(at=["**"])
@example(at=["0", "?", "0"])
@example(at=["?", ".", "*", ".", "2"])
def test_a_pattern_chooses_what_it_describes(at):
    points = shortcut_points(NESTED)
    described = [point.name for point in points if fits("".join(at), point.name)]
    if described:
        picked = choose_points(points, NESTED, "".join(at))
        assert [point.name for point in picked] == described
    else:
        with pytest.raises(ValueError, match="matches no point|no head can sit at"):
            choose_points(points, NESTED, "".join(at))


def test_a_predicate_sees_every_point_and_its_module():
    model, seen = nested(), {}

    def wide(name: str, module: nn.Module) -> bool:
        seen[name] = module
        return isinstance(module, neuron.LIFNode) and name.startswith("1")

    assert chosen(model, wide) == ["1.0.2", "1.1.0.2"]
    assert list(seen) == [point.name for point in shortcut_points(nested())]
    assert all(model.get_submodule(name) is module for name, module in seen.items())


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(ValueError, match="matches no point.*Did you mean '0.0.2'"):
        wrap_with_shortcuts(nested(), at="0.0.22")


def test_a_chain_that_ends_in_an_empty_one_can_be_tapped():
    """An empty Sequential would run a head put into it."""
    model = nn.Sequential(
        nn.Sequential(layer.Linear(4, 6), lif(), nn.Sequential(), nn.Sequential(nn.Sequential())),
        layer.Linear(6, 5),
        lif(),
        layer.Linear(5, 2),
    )
    x = torch.rand(3, 4)
    due = model(x)
    functional.reset_net(model)
    assert chosen(model, "0") == ["0"]
    assert torch.equal(model(x), due)
