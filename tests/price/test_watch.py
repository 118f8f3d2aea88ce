"""What the price warns of, and when it looks."""

import math
import warnings

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import nn

from sj_shortcut import ShortcutLoss, ShortcutWarning, SpikePrice, wrap_with_shortcuts
from sj_shortcut.price.watch import Watch, is_due
from tests.price.tools import batch, net, run

NAMES = ["sn1", "sn2"]


def look(watch: Watch, **values: object) -> list[str]:
    """What is told of one look; all is well where nothing else is said."""
    given = {
        "rates": [0.2, 0.2],
        "targets": [0.2, 0.2],
        "own": [0.2, 0.2],
        "shares": [0.5, 0.5],
        "dead": [0.1, 0.0],
        "price": 0.0,
        "loss": 1.0,
        "sound": 1.0,
        "chance": math.inf,
        **values,
    }
    chance = given.pop("chance")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        watch.look([torch.tensor(value) for value in given.values()], chance)
        watch.read()
    assert all(w.category is ShortcutWarning for w in told)
    return [str(w.message) for w in told]


def after_a_first_look() -> Watch:
    watch = Watch(NAMES)
    assert watch.dead is None and look(watch) == []
    assert watch.dead == pytest.approx([0.1, 0.0])
    return watch


def test_it_looks_at_the_first_loss_and_then_ever_more_rarely() -> None:
    assert [n + 1 for n in range(300) if is_due(n)] == [1, 32, 64, 128, 256]


def test_layers_without_gradients_are_told_once() -> None:
    watch = Watch(NAMES)
    watch.blocked([])
    with pytest.warns(ShortcutWarning, match="'sn2' ran without gradients"):
        watch.blocked([1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.blocked([0])


def test_all_well() -> None:
    watch = after_a_first_look()
    assert look(watch, rates=[0.1, 0.2], dead=[0.15, 0.05], price=3.0, loss=2.3) == []


def test_a_first_batch_that_no_targets_can_be_taken_from_is_told() -> None:
    (told,) = look(watch := Watch(NAMES), sound=0.0)
    assert told.startswith("in the first batch of the price no layer fired, or it was not")
    assert look(watch, sound=0.0) == []
    assert look(after_a_first_look(), sound=0.0) == []


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("factor", [0.0, math.nan, 1.0])
@pytest.mark.parametrize("options", [{}, {"rate": 0.1}])
def test_targets_of_a_batch_without_spikes_or_numbers_are_told(factor, options, biases) -> None:
    model, (x, _) = net(), batch()
    for parameter in model.parameters():
        if parameter.ndim == 1 and not (biases and factor):
            parameter.data.zero_()
    price = SpikePrice(model, **options)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for values in (factor * x, x):
            output = run(model, values, "m")
            price(output)
            functional.reset_net(model)
    said = [str(w.message) for w in told if w.category is ShortcutWarning]
    assert len(said) == (factor != 1 and not options)
    assert all("no layer fired, or it was not finite" in text for text in said)


def test_a_price_that_is_added_by_hand_as_well_is_told_once() -> None:
    model, (x, y) = wrap_with_shortcuts(net()), batch()
    price = SpikePrice(model)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), price=price)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            output = run(model, x, "m")
            (criterion(output, y) + price(output)).backward()
            functional.reset_net(model)
    (said,) = [str(w.message) for w in told if w.category is ShortcutWarning]
    assert said.startswith("the price of one forward pass was taken twice")


def test_a_layer_below_a_third_of_its_target_is_told_once() -> None:
    watch = after_a_first_look()
    (told,) = look(watch, rates=[0.2, 0.06])
    assert told.startswith(
        "1 of 2 spiking layers fire less than a third of their target ('sn2' 0.06 for 0.2): the "
        "price does not ask for that"
    )
    assert look(watch, rates=[0.0, 0.06]) == []


def test_a_layer_that_hardly_fired_untrained_or_drives_nothing_may_be_low() -> None:
    watch = after_a_first_look()
    assert look(watch, rates=[0.02, 0.2], own=[0.01, 0.2]) == []
    assert look(watch, rates=[0.02, 0.2], shares=[0.0, 1.0]) == []


def test_dead_channels_beyond_those_of_the_untrained_network() -> None:
    watch = after_a_first_look()
    assert look(watch, dead=[math.nan, 0.2]) == []
    (told,) = look(watch, dead=[math.nan, 0.35])
    assert told.startswith(
        "'sn2' has 35% dead channels, which did not fire once in this batch, and"
    )
    assert look(after_a_first_look(), dead=[math.nan, math.nan]) == []


def test_a_price_that_stays_while_the_loss_is_that_of_guessing() -> None:
    guessing = {"loss": 2.3, "chance": math.log(10)}
    watch = after_a_first_look()
    assert look(watch, price=5.0, **guessing) == []
    (told,) = look(watch, price=4.9, **guessing)
    assert told.startswith("the price on spikes does not fall (5, now 4.9) and the loss stays")
    watch = after_a_first_look()
    assert look(watch, price=5.0, **guessing) == []
    assert look(watch, price=2.0, **guessing) == []  # it falls
    assert look(watch, price=2.0, loss=1.0, chance=math.log(10)) == []  # it learns
    assert look(watch, price=2.0, loss=2.3) == []  # what guessing costs is not known


def test_a_training_that_silences_its_network_is_told() -> None:
    model, (x, y) = wrap_with_shortcuts(net()), batch(samples=16)
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), price=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for step in range(64):
            if step == 1:
                model.layer2[1].v_threshold = 1e6
            criterion(run(model, x), y)
            functional.reset_net(model)
    said = [str(w.message) for w in told if w.category is ShortcutWarning]
    assert any("'layer2.1' 0 for" in each for each in said)
    assert any("'layer2.1' has 100% dead channels" in each for each in said)


@pytest.mark.parametrize("mode", ["m", "s"])
def test_dead_channels_are_those_that_fire_at_no_step(mode: str) -> None:
    model, (x, _) = net(mode), batch()
    with torch.no_grad():
        model.layer1[0].weight[:4] = 0
        model.layer1[0].bias[:4] = -1
    price = SpikePrice(model)
    price(run(model, x, mode))
    price(run(model, x, mode))
    assert price.state_dict()["_extra_state"]["dead"][0] >= 4 / 16
