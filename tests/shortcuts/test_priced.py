"""The price as a term of the loss, also where it is set by hand."""

import pytest
import torch
from torch import nn

from sj_shortcut import ConstantSchedule, ShortcutLoss, SpikePrice, wrap_with_shortcuts
from sj_shortcut.shortcuts.priced import with_price
from tests.nets.small import Net, images, labels


def loss_of(model: nn.Module) -> ShortcutLoss:
    return ShortcutLoss(model, nn.CrossEntropyLoss(), ConstantSchedule(1.0))


def test_a_price_that_is_set_later_is_a_term_and_may_be_taken_out_again():
    model = wrap_with_shortcuts(Net())
    criterion = loss_of(model)
    output = model(images()).mean(0)
    criterion(output, labels())
    assert "price" not in criterion.parts
    criterion.price = SpikePrice(model, rate=0.01)
    criterion(model(images()).mean(0), labels())
    parts = criterion.parts
    assert parts["price"] > 0
    terms = sum(value for name, value in parts.items() if name != "total")
    torch.testing.assert_close(parts["total"], terms)
    criterion.price = None
    criterion(output, labels())
    assert "price" not in criterion.parts


@pytest.mark.parametrize("value", [True, False, 0.5])
def test_what_is_no_price_is_told(value):
    model = wrap_with_shortcuts(Net())
    criterion = loss_of(model)
    criterion.price = value
    with pytest.raises(TypeError, match=f"criterion.price was set to {value}.* SpikePrice"):
        criterion(model(images()).mean(0), labels())


def test_parts_are_left_alone():
    model = Net()
    price = SpikePrice(model)
    output = model.train()(images()).mean(0)
    parts = {"total": torch.ones(()), "main": torch.ones(())}
    total, found = with_price(torch.ones(()), output, price, nn.MSELoss(), parts)
    assert list(parts) == ["total", "main"]
    assert list(found) == ["total", "main", "price"]
    assert total == 1 + found["price"]
