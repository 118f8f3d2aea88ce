"""HandoverSchedule: what it decides from which losses, keeps, shares among ranks, and refuses."""

import copy
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import functional
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from sj_shortcut import (
    HandoverSchedule,
    ShortcutLoss,
    ShortcutWarning,
    gradient_flow,
    shortcut_branches,
    wrap_with_shortcuts,
)
from tests.nets.small import Net, images, labels
from tests.ranks import on_ranks
from tests.schedules.tools import through_torch, told

losses = st.floats(2**-10, 2**10, width=32)


@given(st.lists(st.tuples(losses, losses, losses), min_size=1, max_size=5), st.floats(0, 10))
def test_coefficients_follow_the_mean_losses(batches, start):
    schedule = told(
        HandoverSchedule(start),
        *({"total": 0.0, "main": m, "a": a, "b": b} for m, a, b in batches),
    )
    assert schedule.coefficient_of("a") == schedule.coefficient == start  # nothing decided yet
    schedule.step()
    main, a, b = (sum(column) for column in zip(*batches, strict=True))
    expected = {"a": start * min(1, main / a), "b": start * min(1, main / b)}
    for head, value in expected.items():
        assert math.isclose(schedule.coefficient_of(head), value, rel_tol=1e-6, abs_tol=1e-300)
    mean = sum(expected.values()) / 2
    assert math.isclose(schedule.coefficient, mean, rel_tol=1e-6, abs_tol=1e-300)
    assert 0 <= schedule.coefficient <= start


@given(st.floats(-10, 10, width=32), st.floats(-10, 10, width=32))
def test_losses_below_zero_keep_coefficients_in_their_range(main, head):
    schedule = told(HandoverSchedule(2.0), {"main": main, "a": head})
    schedule.step()
    assert 0 <= schedule.coefficient_of("a") <= 2
    if head <= 0:
        assert schedule.coefficient_of("a") == 2


def test_each_epoch_is_judged_by_its_own_losses():
    schedule = told(HandoverSchedule(), {"main": 1.0, "a": 4.0})
    schedule.step()
    assert schedule.coefficient_of("a") == 0.25
    told(schedule, {"main": 8.0, "a": 4.0}).step()
    assert schedule.coefficient_of("a") == 1.0
    assert [schedule(epoch) for epoch in (0, 0.9, 1, 1.5, 2, 99)] == [1, 1, 0.25, 0.25, 1, 1]


def test_steps_within_an_epoch_decide_at_its_end():
    schedule = HandoverSchedule()
    for batch in range(4):
        schedule.step(batch / 4)
        told(schedule, {"main": 1.0, "a": 2.0})
        assert schedule.coefficient_of("a") == 1.0
    schedule.step(1.0)
    assert schedule.coefficient_of("a") == 0.5


def test_an_epoch_without_losses_changes_nothing():
    schedule = told(HandoverSchedule(), {"main": 1.0, "a": 2.0})
    schedule.step()
    schedule.step()
    assert schedule.coefficient_of("a") == schedule.coefficient == 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["main", "a", "b"])
def test_losses_that_are_not_finite_decide_nothing(name, value):
    schedule = told(HandoverSchedule(), {"main": 1.0, "a": 2.0, "b": 4.0})
    schedule.step()
    told(schedule, {"main": 1.0, "a": 8.0, "b": 8.0, name: value})
    with pytest.warns(ShortcutWarning, match="^1 of 1 batches .* λ of every head stays as it was"):
        schedule.step()
    assert (schedule.coefficient_of("a"), schedule.coefficient_of("b")) == (0.5, 0.25)


def test_a_head_without_loss_keeps_its_coefficient():
    schedule = told(HandoverSchedule(), {"main": 1.0, "a": 0.0})
    schedule.step()
    assert schedule.coefficient_of("a") == 1.0


def test_the_loss_weighs_each_head_by_its_own_coefficient():
    torch.manual_seed(0)
    model = wrap_with_shortcuts(Net())
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), HandoverSchedule())
    told(criterion.schedule, {"main": 1.0, "layer1.1": 4.0, "layer2.1": 2.0}).step()
    total = criterion(model(images()).mean(0), labels())
    parts = criterion.parts
    expected = parts["main"] + 0.25 * parts["layer1.1"] + 0.5 * parts["layer2.1"]
    torch.testing.assert_close(total, expected)


def train(model: nn.Module, criterion: ShortcutLoss, batches: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(batches):
        loss = criterion(model(images()).mean(0), labels())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(model)


def test_it_learns_from_training_losses_and_not_from_validation():
    torch.manual_seed(0)
    model = wrap_with_shortcuts(Net())
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), HandoverSchedule())
    train(model, criterion, 3)
    before = criterion.schedule.state_dict()
    assert before["batches"] == 3
    model.eval()
    criterion(model(images()).mean(0), labels())
    model.train()
    functional.reset_net(model)
    gradient_flow(model, criterion, [(images(), labels())] * 2)
    assert criterion.schedule.state_dict() == before


@pytest.mark.parametrize("at", [0, 1, 3, 7])
def test_a_checkpoint_in_an_epoch_changes_nothing(at):
    batches = [{"main": x, "a": 2 + y} for x, y in torch.rand(8, 2).tolist()]
    whole = told(HandoverSchedule(0.7), *batches)
    begun = told(HandoverSchedule(0.7), *batches[:at])
    resumed = HandoverSchedule()
    resumed.load_state_dict(through_torch(begun.state_dict()))
    for schedule in (told(begun, *batches[at:]), told(resumed, *batches[at:]), whole):
        schedule.step()
    assert begun.state_dict() == resumed.state_dict() == whole.state_dict()
    assert 0 < whole.coefficient < 0.7


def test_what_a_resumed_schedule_saw_before_is_forgotten():
    saved = told(HandoverSchedule(), {"main": 1.0, "a": 2.0}).state_dict()
    resumed = told(HandoverSchedule(), {"main": 1.0, "a": 100.0})
    resumed.load_state_dict(saved)
    resumed.step()
    assert resumed.coefficient_of("a") == 0.5


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_by_themselves(copied):
    schedule = told(HandoverSchedule(), {"main": 1.0, "a": 2.0})
    twin = copied(schedule)
    told(twin, {"main": 1.0, "a": 6.0}).step()
    schedule.step()
    assert (schedule.coefficient_of("a"), twin.coefficient_of("a")) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"start": -1}, ValueError, "start must be 0 or more"),
        ({"start": "1"}, TypeError, "start must be a number"),
        ({"start": math.nan}, ValueError, "start must be a finite number"),
        ({"sync": 1}, TypeError, "sync must be True or False"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        HandoverSchedule(**arguments)


def test_summed_logits_have_no_losses_to_compare():
    model = wrap_with_shortcuts(Net())
    with pytest.raises(ValueError, match='use combine="loss"'):
        ShortcutLoss(model, nn.CrossEntropyLoss(), HandoverSchedule(), combine="logits")


def test_it_says_what_it_is():
    schedule = told(HandoverSchedule(0.5), {"main": 1.0, "a": 4.0})
    schedule.step()
    said = "HandoverSchedule(start=0.5, last_epoch=1, coefficients={'a': 0.125})"
    assert repr(schedule) == said


# Batches whose losses are not finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["main", "a", "b"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_other_batches_of_the_epoch_decide(at, name, value):
    good = [{"main": 1.0, "a": 2.0, "b": 8.0}, {"main": 2.0, "a": 4.0, "b": 4.0}]
    bad = {"main": 1.0, "a": 16.0, "b": 32.0, name: value}
    schedule = told(HandoverSchedule(), *good[:at], bad, *good[at:])
    said = r"^1 of 3 batches had a loss that was not finite and were left out of the mean"
    with pytest.warns(ShortcutWarning, match=said) as caught:
        schedule.step()
    assert len(caught) == 1 and caught[0].filename == __file__
    assert (schedule.coefficient_of("a"), schedule.coefficient_of("b")) == (0.5, 0.25)
    with warnings.catch_warnings():  # the next epoch is a new one
        warnings.simplefilter("error")
        told(schedule, *good).step()


def test_the_total_alone_leaves_no_batch_out():
    schedule = told(HandoverSchedule(), {"total": math.inf, "main": 1.0, "a": 2.0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule.step()
    assert schedule.coefficient_of("a") == 0.5


def test_heads_that_only_some_batches_have_are_averaged_over_these():
    schedule = told(HandoverSchedule(), {"main": 1.0, "a": 4.0}, {"main": 1.0, "a": 4.0, "b": 2.0})
    schedule.step()
    assert (schedule.coefficient_of("a"), schedule.coefficient_of("b")) == (0.25, 0.5)


@pytest.mark.parametrize("at", range(5))
def test_a_checkpoint_remembers_what_was_left_out(at):
    batches = [{"main": 1.0, "a": 2 + x} for x in torch.rand(4).tolist()]
    batches[1]["a"] = batches[2]["main"] = math.nan
    whole = told(HandoverSchedule(), *batches)
    begun = told(HandoverSchedule(), *batches[:at])
    resumed = HandoverSchedule()
    resumed.load_state_dict(through_torch(begun.state_dict()))
    for schedule in (whole, told(resumed, *batches[at:])):
        with pytest.warns(ShortcutWarning, match="^2 of 4 batches"):
            schedule.step()
    assert whole.state_dict() == resumed.state_dict()
    assert 0 < whole.coefficient < 1


def test_a_state_holds_builtins_only():
    schedule = told(HandoverSchedule(), {"main": math.nan, "a": 2.0}, {"main": 1.0, "a": 2.0})
    state = schedule.state_dict()
    assert state == through_torch(state)
    assert (state["batches"], state["left_out"]) == (2, 1)
    assert state["counts"] == {"main": 1, "a": 1} and state["sums"] == {"main": 1.0, "a": 2.0}
    values = [*state.values(), *state["sums"].values(), *state["counts"].values()]
    assert {type(value) for value in values} <= {str, int, float, bool, dict}


def test_batches_are_noted_without_reading_a_value():
    # Tensors on this device have none: whatever waits for one is an error.
    schedule = HandoverSchedule()
    for _ in range(3):
        schedule.observe({name: torch.ones((), device="meta") for name in ("main", "a", "b")})
    with pytest.raises(RuntimeError, match="meta"):
        schedule.state_dict()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_are_noted_without_waiting_for_the_device():
    schedule = HandoverSchedule()
    batches = [
        {"main": torch.tensor(x).cuda(), "a": torch.tensor(4.0).cuda()} for x in (1.0, math.nan)
    ]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            schedule.observe(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with pytest.warns(ShortcutWarning, match="^1 of 2 batches"):
        schedule.step()
    assert schedule.coefficient_of("a") == 0.25


def test_a_compiled_loss_is_not_compiled_anew_at_every_batch():
    compiled = CompileCounter()
    schedule, eager = HandoverSchedule(), HandoverSchedule()

    @torch.compile(backend=compiled, fullgraph=True)
    def loss(x: Tensor) -> Tensor:
        parts = {"total": x.sum(), "main": x.mean(), "a": 2 * x.square().mean()}
        schedule.observe(parts)
        return parts["total"]

    for x in torch.rand(20, 3):
        loss(x)
        eager.observe({"main": x.mean(), "a": 2 * x.square().mean()})
    assert compiled.frame_count <= 3
    assert schedule.state_dict() == eager.state_dict()
    assert schedule.batches == 20


def test_it_declares_that_it_needs_losses_and_has_no_length():
    schedule = HandoverSchedule()
    assert (schedule.epochs, schedule.needs_steps, schedule.needs_losses) == (None, True, True)


# Two ranks see different batches, and decide the same.


def decide_on_one_rank(rank: int) -> tuple[list[float], dict[str, Any]]:
    shared, own = HandoverSchedule(), HandoverSchedule(sync=False)
    for schedule in (shared, own):
        told(schedule, *[{"main": 1.0 + rank, "a": 4.0 + 4 * rank}] * (rank + 1)).step()
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(wrap_with_shortcuts(Net()))
    criterion = ShortcutLoss(model, nn.CrossEntropyLoss(), HandoverSchedule())
    torch.manual_seed(rank)
    train(model, criterion, 3)
    criterion.schedule.step()
    return [s.coefficient_of("a") for s in (shared, own)], criterion.schedule.state_dict()


def test_ranks_agree(tmp_path: Path):
    ((shared, own0), trained), ((shared1, own1), trained1) = on_ranks(decide_on_one_rank, tmp_path)
    assert shared == shared1 == pytest.approx((1 + 2 * 2) / (4 + 2 * 8))  # means over all batches
    assert (own0, own1) == (0.25, 0.25)
    assert trained == trained1
    assert set(trained["coefficients"]) == set(shortcut_branches(wrap_with_shortcuts(Net())))


def leave_out_on_one_rank(rank: int) -> tuple[dict[str, Any], list[str]]:
    schedule = told(HandoverSchedule(), {"main": 1.0, "a": 4.0 + 4 * rank})
    if rank == 1:
        told(schedule, {"main": math.nan, "a": 1.0})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        schedule.step()
    return schedule.state_dict(), [str(warning.message) for warning in caught]


def test_ranks_agree_on_what_is_left_out_and_one_tells(tmp_path: Path):
    (state, said), (state1, said1) = on_ranks(leave_out_on_one_rank, tmp_path)
    assert state == state1
    assert state["coefficients"] == {"a": 2 / 12}
    assert len(said) == 1 and said[0].startswith("1 of 3 batches") and not said1
