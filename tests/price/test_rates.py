import gc
import weakref

import torch

from sj_shortcut.price.rates import Rates, hang_on, rates_behind


def test_calls_add_up_and_channels_fire_in_any_of_them() -> None:
    rates = Rates(None, looking=True)
    rates.add(0, torch.tensor([[1.0, 0.0, 0.0]]), channel=1)
    rates.add(0, torch.tensor([[0.0, 1.0, 0.0]]), channel=1)
    rates.add(1, torch.ones(2, dtype=torch.float64), channel=None)
    assert [float(x) for x in rates.sums[0]] == [1, 1] and rates.sizes == {0: 6, 1: 2}
    assert rates.fired[0].tolist() == [True, True, False] and 1 not in rates.fired
    assert rates.sums[1][0].dtype == torch.float64
    plain = Rates(None)
    plain.add(0, torch.ones(2, 3, dtype=torch.float16), channel=1)
    assert not plain.fired and plain.sums[0][0].dtype == torch.float32


def test_sums_of_half_precision_do_not_overflow() -> None:
    rates = Rates(None)
    rates.add(0, torch.ones(300, 300, dtype=torch.float16), None)
    assert float(rates.sums[0][0]) == 90_000


def test_records_are_found_once_each_and_not_behind_others() -> None:
    x = torch.ones(2, requires_grad=True)
    first, second, third = (Rates(i) for i in range(3))
    a, b = hang_on(2 * x, first), hang_on(3 * x, second)
    assert {r.owner for r in rates_behind(torch.stack([a, a, b]).mean())} == {0, 1}
    c = hang_on(a + b, third)
    assert rates_behind(c) == [third] and rates_behind(x + 1) == []
    assert rates_behind(hang_on(torch.ones(2), first)) == []  # no graph to hang on


def test_a_record_goes_with_its_graph() -> None:
    x = torch.ones(2, requires_grad=True)
    spikes = 2 * x
    rates = Rates(None)
    rates.add(0, spikes, None)
    output = hang_on(spikes, rates)
    known = weakref.ref(rates)
    del rates
    gc.collect()
    assert known() is not None
    del output, spikes
    assert known() is None
