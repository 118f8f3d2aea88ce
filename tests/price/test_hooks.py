import copy
import gc
import pickle
import weakref

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import nn

from sj_shortcut import SpikePrice, remove_price, wrap_with_shortcuts
from sj_shortcut.price.hooks import has_price, put_hooks_on
from sj_shortcut.price.rates import rates_behind
from sj_shortcut.shortcuts.head import ShortcutHead
from tests.nets.small import Net, images
from tests.nets.written import WRITTEN
from tests.price.tools import LAYERS, net


def test_layers_inside_heads_and_neurons_have_no_price() -> None:
    class Spiking(ShortcutHead):
        def __init__(self, channels: int, classes: int) -> None:
            super().__init__(channels, classes)
            self.unused = type(Net().layer1[1])()

    model = wrap_with_shortcuts(net(), head=Spiking)
    assert put_hooks_on(model, ()).names == list(LAYERS)


def test_an_output_carries_what_its_forward_fired() -> None:
    model = net()
    spending = put_hooks_on(model, ())
    assert has_price(model)
    (rates,) = rates_behind(model(images()))
    assert rates.owner is spending and set(rates.sums) == {0, 1, 2} and rates.looking
    assert spending.current is None and spending.shares is not None
    model.eval()
    assert rates_behind(model(images())) == []
    remove_price(model)
    assert not has_price(model)


def test_nothing_is_kept_of_forwards_that_no_loss_uses() -> None:
    model = net()
    spending = put_hooks_on(model, ())
    known = weakref.ref(rates_behind(model(images()))[0])
    gc.collect()
    assert known() is None and spending.current is None


def test_a_forward_that_fails_leaves_nothing() -> None:
    model = net()
    put_hooks_on(model, ())
    with pytest.raises(RuntimeError):
        model(torch.rand(2, 3, 5))
    assert len(rates_behind(model(images()))) == 1


def test_hooks_are_carried_by_copies() -> None:
    model = net()
    put_hooks_on(model, ())
    model(images())
    functional.reset_net(model)
    twin = copy.deepcopy(model)
    assert has_price(twin)
    remove_price(twin)
    assert has_price(model) and not has_price(twin)
    assert has_price(pickle.loads(pickle.dumps(model)))


@pytest.mark.parametrize(
    "name", ["state by hand", "batch first, one time step", "a dict, defined backwards"]
)
def test_networks_as_people_write_them(name: str) -> None:
    found = WRITTEN[name]
    torch.manual_seed(0)
    model, inputs = found.build(), found.inputs()
    price = SpikePrice(model, factor=0.5, neuron_types=found.neurons)
    output = found.run(model, *inputs)
    output = output["logits"] if isinstance(output, dict) else output
    price(nn.functional.relu(output)).backward()
    assert price.targets and sum(price.shares.values()) == pytest.approx(1)
