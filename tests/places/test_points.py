"""Where heads can sit: what the table says of known models, and what `at=` makes of it."""

import pytest
import torch
from spikingjelly.activation_based import base, functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import spiking_vgg
from torch import Tensor, nn

from sj_shortcut import (
    ShortcutPoint,
    shortcut_branches,
    shortcut_logits,
    shortcut_points,
    wrap_with_shortcuts,
)
from sj_shortcut.shortcuts.hooks import forwards_of
from tests.nets.written import Exits, HelperBesideAndFirst, K
from tests.nets.zoo import EVERY, ZOO, ann_layers, features, lif
from tests.places.tools import OWN_FEATURE

OUTPUT = "the model's output itself"


def path_of(points: list[ShortcutPoint]) -> list[tuple[str, int | None, int]]:
    """The steps of the network: what automatic choices take, and the classifier's feature."""
    return [(p.name, p.channels, p.stage) for p in points if p.on_path or p.reason == OWN_FEATURE]


def stages(*rows: tuple[str, int]) -> list[tuple[str, int, int]]:
    """Rows of names and channels, one string a stage, numbered from 1."""
    return [
        (name, channels, stage)
        for stage, (names, channels) in enumerate(rows, 1)
        for name in names.split()
    ]


# Written down from the papers and SpikingJelly's code, not from our output.
KNOWN = {
    "spiking_resnet18": stages(
        ("sn1", 64),
        ("layer1.0 layer1.1", 64),
        ("layer2.0 layer2.1", 128),
        ("layer3.0 layer3.1", 256),
        ("layer4.0 layer4.1", 512),
    ),
    "spiking_resnet34": stages(
        ("sn1", 64),
        ("layer1.0 layer1.1 layer1.2", 64),
        ("layer2.0 layer2.1 layer2.2 layer2.3", 128),
        ("layer3.0 layer3.1 layer3.2 layer3.3 layer3.4 layer3.5", 256),
        ("layer4.0 layer4.1 layer4.2", 512),
    ),
    "mnist_net": stages(("conv_fc.2", 2), ("conv_fc.6", 2), ("conv_fc.11", 2048)),
    "cifar10_net": stages(
        ("conv_fc.2 conv_fc.5 conv_fc.8", 4),
        ("conv_fc.12 conv_fc.15 conv_fc.18", 4),
        ("conv_fc.23", 2048),
    ),
    "cifar10_dvs_net": stages(
        ("conv_fc.2", 2), ("conv_fc.6", 2), ("conv_fc.10", 2), ("conv_fc.14", 2),
        ("conv_fc.19", 512),
    ),
    "dvs_gesture_net": stages(
        ("conv_fc.2", 4), ("conv_fc.6", 4), ("conv_fc.10", 4), ("conv_fc.14", 4), ("conv_fc.18", 4),
        ("conv_fc.23", 512),
    ),
    "ms_resnet": stages(("layer1.0", 4), ("layer2.0 layer2.1", 8), ("layer3.0 head_lif", 16)),
    "spikformer": stages(
        ("patch_embed.stages.0", 2),
        ("patch_embed.stages.1", 4),
        ("patch_embed.stages.2", 8),
        ("patch_embed.stages.3 patch_embed.positional_encoding blocks.0 blocks.1 blocks.2", 16),
    ),
    "nested": stages(("0.0.2 0.1.2", 8), ("1.0.2 1.1.0.2", 16)),
    "seq_to_ann": stages(("1", 8), ("3 5", 16)),
    "multi_step": stages(("0.2", 8), ("1.2 2.2", 16)),
    "features": stages(("1", 24), ("3", 16), ("5", 8)),
    "sound": stages(("2", 8), ("5", 8), ("8", 16)),
    "own_shortcut": stages(("0.2", 8), ("1", 16), ("2", 32)),
    "pre_activation": stages(("blocks.0 blocks.1 blocks.2 head_lif", 8)),
    "spiking_output": stages(("1", 24), ("3", 16)),
}  # fmt: skip
KNOWN["sew_resnet18"] = KNOWN["spiking_resnet18"]


@pytest.mark.parametrize("name", [name for name in KNOWN if name in ZOO])
def test_known_models(name):
    specimen = ZOO[name]
    points = shortcut_points(specimen.make(specimen.modes[0]))
    assert path_of(points) == KNOWN[name]
    assert all(point.usable for point in points if point.on_path)


def test_the_vgg_of_full_width():
    with torch.device("meta"):  # its classifier alone would take half a gigabyte
        vgg = spiking_vgg.spiking_vgg11_bn(spiking_neuron=neuron.LIFNode)
    points = shortcut_points(vgg)
    assert points.num_classes == 1000
    assert path_of(points) == stages(
        ("features.2", 64),
        ("features.6", 128),
        ("features.10 features.13", 256),
        ("features.17 features.20", 512),
        ("features.24 features.27", 512),
        ("classifier.1 classifier.4", 4096),
    )


@pytest.mark.parametrize(("name", "mode"), EVERY)
def test_an_example_confirms_what_the_modules_tell(name, mode):
    specimen = ZOO[name]
    static = shortcut_points(specimen.make(mode))
    seen = shortcut_points(specimen.make(mode), specimen.example(mode))
    assert static.num_classes == seen.num_classes == specimen.classes
    if name != "qkformer":  # defines its parts in another order than it runs them
        assert path_of(static) == path_of(seen)
    else:
        assert {row[:2] for row in path_of(static)} == {row[:2] for row in path_of(seen)}
    guesses = {point.name: point for point in static}
    for point in seen:
        guess = guesses[point.name]
        if "attn" not in point.name and guess.channels is not None:
            # Attention folds and splits channels, and no head sits inside it unless named.
            assert (point.channels, point.spatial) == (guess.channels, guess.spatial), point.name
        once_a_step = mode == "s" or (name == "multi_step" and point.name.endswith(".2"))
        axis = 1 if once_a_step else 2
        assert point.channels == point.shape[axis]
        assert point.spatial == (len(point.shape) > axis + 1)


@pytest.mark.skipif("qkformer" not in ZOO, reason="SpikingJelly 2.0.0 only")
def test_an_example_settles_the_order_in_which_parts_run():
    specimen = ZOO["qkformer"]
    guessed = shortcut_points(specimen.make("m"))
    seen = shortcut_points(specimen.make("m"), specimen.example("m"))
    assert path_of(guessed) == path_of(seen)  # a made-up batch tells as much
    assert path_of(seen) == stages(
        ("patch_embed1 stage1.0", 4), ("patch_embed2 stage2.0", 8),
        ("patch_embed3 stage3.0 stage3.1", 16),
    )  # fmt: skip
    model = wrap_with_shortcuts(specimen.make("m"), example_input=specimen.example("m"))
    assert list(shortcut_branches(model)) == ["stage1.0", "stage2.0"]


class Backwards(nn.Module):
    """Its layers are defined last to first, as no static reading can know."""

    def __init__(self) -> None:
        super().__init__()
        self.head = layer.Linear(6, 3)
        self.deep = nn.Sequential(layer.Linear(8, 6), lif())
        self.middle = nn.Sequential(layer.Linear(10, 8), lif())
        self.shallow = nn.Sequential(layer.Linear(4, 10), lif())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.deep(self.middle(self.shallow(x))))


def test_an_example_settles_depth():
    points = shortcut_points(Backwards(), torch.rand(2, 4))
    assert path_of(points) == stages(("shallow.1", 10), ("middle.1", 8), ("deep.1", 6))
    assert points.num_classes == 3
    model = wrap_with_shortcuts(Backwards(), at=["deep.1", "shallow.1"],
                                example_input=torch.rand(2, 4))  # fmt: skip
    assert list(shortcut_branches(model)) == ["shallow.1", "deep.1"]


# -------------------------------------------------------------------------------- number of classes


@pytest.mark.parametrize(
    ("tail", "classes"),
    [
        ([layer.Linear(8, 7)], 7),
        ([layer.Linear(8, 7), lif()], 7),
        ([layer.Linear(8, 20), layer.VotingLayer(5)], 4),
        ([layer.Linear(8, 20), lif(), layer.VotingLayer(10)], 2),
        ([layer.Linear(8, 7), layer.BatchNorm1d(7), nn.Dropout(0.1), nn.Identity()], 7),
        ([layer.Linear(8, 7), nn.LogSoftmax(-1)], 7),
        ([nn.Sequential(nn.Linear(8, 7), nn.Sequential(lif()))], 7),
        ([nn.Unflatten(1, (8, 1, 1)), layer.Conv2d(8, 7, 1), layer.AdaptiveAvgPool2d(1),
          layer.Flatten()], 7),
        ([layer.Linear(8, 7), nn.ReLU()], 7),
        ([nn.Linear(8, 21), nn.Unflatten(1, (21, 1))], 21),
        ([nn.Bilinear(8, 8, 7)], None),  # which runs on no made-up batch
    ],
)  # fmt: skip
def test_number_of_classes_from_the_last_layers(tail, classes):
    body = [layer.Linear(4, 8), lif(), layer.Linear(8, 8), lif()]
    assert shortcut_points(nn.Sequential(*body, *tail)).num_classes == classes


def test_number_of_classes_from_an_example():
    model = NeedsAMask(nn.ReLU())
    with pytest.raises(ValueError, match="number of classes: pass num_classes="):
        wrap_with_shortcuts(model)
    wrap_with_shortcuts(model, example_input=(torch.rand(2, 4), torch.ones(4)))
    assert shortcut_branches(model)["net.1"].num_classes == 7


class NeedsAMask(nn.Module):
    """Takes no made-up batch, so that its modules alone tell."""

    def __init__(self, *tail: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(layer.Linear(4, 8), lif(), layer.Linear(8, 8), lif(),
                                 layer.Linear(8, 7), *tail)  # fmt: skip

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.net(x * mask)


class Halves(nn.Module):
    """Uses half of its last layer, which no static reading can know."""

    def __init__(self) -> None:
        super().__init__()
        self.net = features()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[..., :5]


def test_a_look_tells_classes_that_the_modules_do_not():
    model = wrap_with_shortcuts(Halves())
    assert shortcut_branches(model)["net.1"].num_classes == 5
    assert model(torch.rand(2, 12)).shape == (2, 5)


class HalvesOfMasked(NeedsAMask):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x, mask)[..., :5]


def test_a_wrong_guess_of_the_classes_stops_the_first_forward():
    batch = torch.rand(2, 4), torch.ones(4)
    model = wrap_with_shortcuts(HalvesOfMasked())
    with pytest.raises(ValueError, match="looked like 7 classes: pass num_classes="):
        model(*batch)
    model = wrap_with_shortcuts(HalvesOfMasked(), num_classes=5)
    assert model(*batch).shape == (2, 5)


# ------------------------------------------------------------------------------------------ reasons


class Several(nn.Module):
    """Points of every kind at which no head can sit."""

    def __init__(self) -> None:
        super().__init__()
        self.first = layer.Linear(12, 8)
        self.spike = lif()
        self.twice = nn.Sequential(layer.Linear(8, 8), lif())
        self.shared = nn.Sequential(layer.Linear(8, 8), lif())
        self.alias = self.shared
        self.unused = nn.Sequential(layer.Linear(8, 8), lif())
        self.pair = Pair()
        self.folded = ann_layers(nn.Linear(8, 8), Spike())
        self.last = nn.Sequential(layer.Linear(8, 8), lif())
        self.head = layer.Linear(8, 5)
        self.out = lif()

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.spike(self.first(x))))
        x, _ = self.pair(self.shared(x))
        return self.out(self.head(self.last(self.folded(x))))


class Spike(nn.Module):
    """A user's neuron that knows nothing of SpikingJelly."""

    def __init__(self) -> None:
        super().__init__()
        self.surrogate = surrogate.ATan()

    def forward(self, x: Tensor) -> Tensor:
        return self.surrogate(x - 0.5)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spike = lif()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.spike(x), x


def several() -> Several:
    model = Several()
    functional.set_step_mode(model, "m")
    return model


def reasons(model: nn.Module, **kwargs: object) -> dict[str, str]:
    points = shortcut_points(model, neuron_types=(Spike,), **kwargs)
    assert all(point.reason for point in points if not point.usable)
    return {point.name: point.reason for point in points if point.reason}


TWICE = (
    "called 2 times in one forward, where 'spike' is called 1 time: a module shared between depths "
    "has no one depth"
)
REASONS = {
    "twice": TWICE,
    "twice.1": TWICE,
    "unused": "not called in forward, or by .forward(), which runs no hooks",
    "unused.1": "not called in forward, or by .forward(), which runs no hooks",
    "last.1": OWN_FEATURE,
    "out": OUTPUT,
}


class SeveralWithMask(Several):
    """Takes no made-up batch, so that its modules alone tell."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x * mask)


def test_reasons_that_the_modules_tell():
    model = SeveralWithMask()
    functional.set_step_mode(model, "m")
    assert reasons(model) == {
        "shared": "one module shared by shared and alias",
        "shared.1": "one module shared by shared.1 and alias.1",
        "last.1": OWN_FEATURE,
        "out": OUTPUT,
    }


def test_reasons_that_an_example_tells():
    assert reasons(several(), example_input=torch.rand(2, 3, 12)) == REASONS


def test_a_layer_that_never_runs_is_no_step():
    """Defined last, it would pass for the classifier's own feature, and that would get a head."""

    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.spare = features(), nn.Sequential(layer.Linear(8, 8), lif())

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    points = shortcut_points(Spare())
    assert path_of(points) == stages(("net.1", 24), ("net.3", 16), ("net.5", 8))
    assert [point.name for point in points if point.on_path] == ["net.1", "net.3"]


def test_reasons_that_a_made_up_batch_tells():
    assert reasons(several()) == REASONS


@pytest.mark.parametrize("name", ["twice.1", "unused.1", "out"])
def test_naming_an_unusable_point_gives_the_reason(name):
    model, example = several(), torch.rand(2, 3, 12)
    reason = reasons(model, example_input=example)[name]
    for at in (name, [name], lambda path, module: path == name):
        with pytest.raises(ValueError, match=name) as error:
            wrap_with_shortcuts(model, at, example_input=example, neuron_types=(Spike,))
        assert reason in str(error.value)


@pytest.mark.parametrize("name", ["folded.1", "folded", "shared.1", "pair"])
def test_a_look_makes_points_usable_that_modules_alone_do_not_tell(name):
    """Folded time, a module of two names that runs once, and the first tensor of a tuple."""
    model = wrap_with_shortcuts(several(), name, neuron_types=(Spike,))
    model(torch.rand(2, 3, 12))
    assert shortcut_logits(model)[name].shape == (3, 5)


def test_the_classifiers_feature_can_be_named():
    model = wrap_with_shortcuts(several(), at="last.1", neuron_types=(Spike,))
    assert list(shortcut_branches(model)) == ["last.1"]


class Flattened(nn.Module):
    """The layer before its first neuron does not tell how wide that is."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            layer.Conv1d(2, 4, 3), layer.Flatten(), lif(), layer.Linear(24, 5), lif(),
            layer.Linear(5, 3),
        )  # fmt: skip

    def forward(self, x: Tensor, *mask: Tensor) -> Tensor:
        return self.net(x * mask[0] if mask else x)


class FlattenedAndMasked(Flattened):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x, mask)


def test_unknown_channels_ask_for_an_example():
    model = FlattenedAndMasked()  # which takes no made-up batch
    point = shortcut_points(model)[0]
    assert (point.name, point.channels, point.usable) == ("net.2", None, False)
    assert "pass example_input=" in point.reason
    assert " ?" in str(shortcut_points(model)).splitlines()[1]
    seen = shortcut_points(model, (torch.rand(2, 2, 8), torch.ones(8)))[0]
    assert (seen.channels, seen.usable, seen.shape) == (24, True, (2, 24))


def test_a_made_up_batch_tells_channels_that_the_modules_do_not():
    point = shortcut_points(Flattened())[0]
    assert (point.name, point.channels, point.usable) == ("net.2", 24, True)


def test_a_wrong_guess_of_the_channels_stops_the_first_forward():
    class Masked(nn.Sequential):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return super().forward(x * mask)

    layers = [layer.Linear(4, 8), nn.Unflatten(-1, (2, 4)), lif(), layer.Flatten(),
              layer.Linear(8, 3), lif(), layer.Linear(3, 2)]  # fmt: skip
    wrapped = wrap_with_shortcuts(Masked(*layers), at="2")
    with pytest.raises(ValueError, match=r"at '2' was made for 8 channels.*Pass example_input="):
        wrapped(torch.rand(5, 4), torch.ones(4))


@pytest.mark.skipif(not hasattr(layer, "TLastMultiStepContainer"), reason="2.0.0 only")
def test_containers_with_time_at_the_end_can_be_tapped():
    model = nn.Sequential(
        layer.TLastMultiStepContainer(nn.Linear(4, 8), lif()),
        layer.TLastMultiStepContainer(nn.Linear(8, 3), lif()),
    )
    points = {point.name: point for point in shortcut_points(model, torch.rand(5, 4, 3))}
    assert str(points["0"].layout) == "NCT" and points["0"].usable
    assert str(points["0.1"].layout) == "NC" and points["0.1"].reason == OWN_FEATURE


# ------------------------------------------------------------------------------------ neuron types


class Memory(base.MemoryModule):
    """A user's neuron on SpikingJelly's base class, with a step mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_memory("v", 0.0)
        self.surrogate = surrogate.ATan()

    def single_step_forward(self, x: Tensor) -> Tensor:
        self.v = 0.5 * self.v + x
        return self.surrogate(self.v - 0.1)

    def multi_step_forward(self, x_seq: Tensor) -> Tensor:
        return torch.stack([self.single_step_forward(x) for x in x_seq])


@pytest.mark.parametrize("kind", [Spike, Memory])
def test_neuron_types_of_the_user(kind):
    def make() -> nn.Module:
        model = nn.Sequential(layer.Linear(4, 8), kind(), layer.Linear(8, 6), kind(),
                              layer.Linear(6, 3))  # fmt: skip
        functional.set_step_mode(model, "m")
        return model

    with pytest.raises(ValueError, match=r"name your own classes with neuron_types="):
        wrap_with_shortcuts(make())
    assert path_of(shortcut_points(make(), neuron_types=(kind,))) == [("1", 8, 1), ("3", 6, 2)]
    model = wrap_with_shortcuts(make(), neuron_types=(kind,))
    model(torch.rand(2, 3, 4))
    assert shortcut_logits(model)["1"].shape == (3, 3)
    assert {str(layout) for layout in forwards_of(model).layouts.values()} == {"TNC"}


def test_surrogates_and_non_spiking_neurons_are_no_points():
    model = features()
    model[3] = NonSpiking()
    assert [point.name for point in shortcut_points(model)] == ["1", "5"]


class NonSpiking(neuron.LIFNode):
    """Named as in SpikingJelly's examples: a membrane read out, which never fires."""


NonSpiking.__name__ = "NonSpikingLIFNode"


@pytest.mark.parametrize("layout", [None, "TNC..."])
def test_one_number_a_sample_is_refused_in_words_that_say_so_with_the_model_alone(layout):
    model = nn.Sequential(
        layer.Linear(8, 16), lif(), layer.Linear(16, 12), lif(), layer.Linear(12, 6), lif(),
        layer.Linear(6, 1),
    )  # fmt: skip
    functional.set_step_mode(model, "m")
    with pytest.raises(ValueError, match="is a scalar a sample, as in regression"):
        wrap_with_shortcuts(model, layout=layout)


@pytest.mark.parametrize("example", [None, torch.rand(3, 2, 3, 12, 12)])
def test_exits_all_lie_on_the_way_to_the_last(example):
    points = shortcut_points(Exits(), example)
    assert path_of(points) == stages(("b.0.2", 8), ("b.1.2 b.2.2", 16), ("b.3.2", 32))
    assert points.num_classes == K


def test_what_leads_to_other_logits_alone_is_left_out_unless_named():
    points = {point.name: point for point in shortcut_points(HelperBesideAndFirst())}
    helper = points["helper.2"]
    assert (helper.usable, helper.on_path, helper.channels) == (True, False, 12)
    assert "other logits than the main ones: left out unless named" in helper.reason
    model = wrap_with_shortcuts(HelperBesideAndFirst(), at="all")
    assert list(shortcut_branches(model)) == ["b.0.2", "b.1.2", "b.2.2"]
