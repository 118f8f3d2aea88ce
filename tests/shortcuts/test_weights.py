"""What weighs the losses of heads: coefficients of schedules and weights by name."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sj_shortcut import EvolutionarySchedule
from sj_shortcut.shortcuts.weights import (
    Coefficients,
    finite_coefficient,
    only_weighed,
    weigh,
    weights_by_name,
)
from tests.refusals import refused

numbers = st.floats(min_value=0, allow_nan=False, allow_infinity=False) | st.integers(0, 10**9)
NAMES = ["layer1.1", "layer2.1", "layer3.1"]


@given(numbers)
def test_any_finite_number_that_is_not_negative_weighs(value):
    found = finite_coefficient(value)
    assert type(found) is float and found == value


@pytest.mark.parametrize("wrong", [None, "1", 1j, torch.tensor(1.0)])
def test_what_is_no_number_is_told(wrong):
    with pytest.raises(TypeError, match="gave the coefficient .* must be a number"):
        finite_coefficient(wrong)


@given(st.floats(max_value=0, exclude_max=True) | st.sampled_from([math.inf, math.nan]))
def test_numbers_that_would_spoil_a_loss_are_told(wrong):
    with pytest.raises(ValueError, match="must be finite and at least 0"):
        finite_coefficient(wrong)
    with pytest.raises(ValueError, match=r"'layer1\.1' must be finite and at least 0"):
        weights_by_name({"layer1.1": wrong}, NAMES)


def test_without_weights_all_heads_count_alike():
    assert weights_by_name(None, NAMES) == dict.fromkeys(NAMES, 1.0)


@given(st.dictionaries(st.sampled_from(NAMES), numbers))
def test_weights_are_told_by_name_or_in_order(weights):
    due = {name: float(weights.get(name, 1)) for name in NAMES}
    by_name = weights_by_name(weights, NAMES)
    assert by_name == due and list(by_name) == NAMES
    assert weights_by_name(list(due.values()), NAMES) == due


@pytest.mark.parametrize("wrong", ["layer1.1", 0.5, {"layer1.1": "1"}, {"layer1.1": True}])
def test_weights_that_are_no_numbers_are_told(wrong):
    with pytest.raises(TypeError, match="must be (a )?number"):
        weights_by_name(wrong, NAMES)


def test_weights_of_other_heads_are_told():
    with refused(ValueError, "weights has 2 entries for 3 heads: layer1.1, layer2.1, layer3.1."):
        weights_by_name([1, 2], NAMES)
    with pytest.raises(ValueError, match=r"no head 'layer1\.0'.* Heads: layer1\.1, layer2\.1"):
        weights_by_name({"layer1.0": 1}, NAMES)


def test_coefficients_keep_their_tensor_and_change_it_in_place():
    coefficients = Coefficients({"a": 1.0, "b": 0.5, "c": 0.0})
    schedule = EvolutionarySchedule(4, start=1.0)
    schedule.add_reader(coefficients)
    coefficients.move(torch.zeros(1))
    kept = coefficients.kept
    assert kept.tolist() == [1.0, 0.5, 0.0]
    before = coefficients.recorded(["b"])["b"]
    schedule.step(2)
    assert coefficients.kept is kept and kept.tolist() == [0.5, 0.25, 0.0]
    assert coefficients.now == {"a": 0.5, "b": 0.25, "c": 0.0}
    assert before.item() == 0.5  # of a loss whose backward pass is still to come


def test_factors_are_sent_only_where_they_change():
    coefficients, losses = Coefficients({"a": 1.0}), torch.zeros(2)
    first = coefficients.factors(losses, {"a": 0.5})
    assert first.tolist() == [1.0, 0.5]
    assert coefficients.factors(losses, {"a": 0.5}) is first
    assert coefficients.factors(losses.double(), {"a": 0.5}).dtype == torch.float64
    assert coefficients.factors(losses, {"a": 0.25}).tolist() == [1.0, 0.25]
    assert first.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_weight_that_is_a_tensor_weighs_as_its_number_does(dtype):
    value = torch.tensor([3.0, -7.0], dtype=dtype)
    weight = torch.tensor(0.1, dtype=torch.float64)
    assert torch.equal(weigh(weight, value), weigh(0.1, value))
    assert torch.equal(only_weighed(weight, value), value)


def test_a_weight_of_zero_hides_what_is_not_finite_and_its_gradient():
    value = torch.tensor([math.nan, math.inf], requires_grad=True)
    for hide in (weigh, only_weighed):
        (gradient,) = torch.autograd.grad(hide(torch.tensor(0.0), value).sum(), value)
        assert not hide(torch.tensor(0.0), value).any()
        assert torch.equal(gradient, torch.zeros(2))
