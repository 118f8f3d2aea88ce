"""Records of forwards: what gathers, and what ends a sequence."""

import copy
import gc
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sj_shortcut.shortcuts.forwards import Forwards, Record
from tests.calls import calls_in

N, K = 3, 4


def record_of(forwards: Forwards, timed: bool = False, calls: int = 1) -> Record:
    record = Record(forwards, graded=True)
    for _ in range(calls):
        shape = (2, N, K) if timed else (N, K)
        record.add("a", torch.rand(shape, requires_grad=True) * 1, shape[0] if timed else 1, timed)
    return record


def test_a_record_is_of_a_single_step_until_a_head_has_more():
    forwards = Forwards()
    assert record_of(forwards).single
    assert not record_of(forwards, timed=True).single
    twice = record_of(forwards, calls=2)
    assert not twice.single and twice.steps == {"a": [1, 1]} and len(twice.all_logits()) == 2
    twice.add("b", torch.rand(N, K), 1, False)
    assert list(twice.logits) == ["a", "b"] and len(twice.all_logits()) == 3


events = st.lists(st.sampled_from(["step", "timed", "used", "spent", "reset", "empty"]))


@given(events)
def test_single_steps_gather_until_something_ends_the_sequence(happens):
    """Eagerly and in compiled code, which must not look back, alike."""
    eager, compiled = Forwards(), Forwards()
    due: list[int] = []
    ended = False
    for number, event in enumerate(happens):
        if event in ("step", "timed"):
            for forwards, keep in ((eager, eager.keep), (compiled, compiled.keep_compiled)):
                record = record_of(forwards, timed=event == "timed")
                record.number = number
                keep(record)
            due = [number] if ended or event == "timed" else [*due, number]
            ended = event == "timed"
            for forwards in (eager, compiled):
                assert len(forwards.sequence()) == len(due)
            assert [record.number for record in eager.sequence()] == due
        elif event == "empty":  # heads rested
            eager.keep(Record(eager, graded=True))
            compiled.keep_compiled(Record(compiled, graded=True))
        elif event == "reset":
            eager.reset()
            compiled.reset()
            due, ended = [], False
        else:
            for record in (*eager.sequence(), *compiled.sequence()):
                setattr(record, event, True)
            ended = ended or bool(due)


def test_compiled_records_before_a_reset_are_found_by_a_loss_after_it():
    forwards = Forwards()
    records = [record_of(forwards) for _ in range(3)]
    forwards.keep_compiled(records[0])
    forwards.reset()
    for record in records[1:]:
        forwards.keep_compiled(record)
    assert forwards.of_compiled_code() == records
    assert [record.number for record in records] == [0, 1, 2]
    assert forwards.sequence() == records[1:]


def test_compiled_records_that_a_loss_used_go_when_the_next_loss_comes():
    forwards = Forwards()
    records = [record_of(forwards) for _ in range(4)]
    for record in records:
        forwards.keep_compiled(record)
    records[0].used = records[2].used = True
    forwards.forget_used([records[2]])
    assert forwards.of_compiled_code() == records[1:]
    forwards.forget_used([])
    assert forwards.of_compiled_code() == [records[1], records[3]]


def test_few_compiled_sequences_outlive_their_reset():
    forwards = Forwards()
    for _ in range(20):
        forwards.keep_compiled(record_of(forwards))
        forwards.reset()
    assert len(forwards.of_compiled_code()) < 10


def test_reading_ends_a_sequence_where_no_reset_would():
    for resets in (True, False):
        forwards = Forwards(resets=resets)
        forwards.keep(record_of(forwards))
        forwards.sequence()[0].read = True
        forwards.keep(record_of(forwards))
        assert len(forwards.sequence()) == (2 if resets else 1)


def test_a_sequence_costs_as_much_a_step_however_long_it_is():
    def calls(steps: int) -> int:
        forwards = Forwards()
        records = [record_of(forwards) for _ in range(steps)]
        gc.disable()  # what it calls would count
        try:
            count = calls_in(lambda: [forwards.keep(record) for record in records]).total()
        finally:
            gc.enable()
        assert forwards.sequence() == records
        return count

    assert calls(80) - calls(40) == 4 * (calls(20) - calls(10))


@pytest.mark.parametrize("ended", [0, 1, 2])
@pytest.mark.parametrize("event", ["used", "spent"])
def test_whichever_record_ends_the_next_one_begins_anew(ended, event):
    forwards = Forwards()
    records = [record_of(forwards) for _ in range(5)]
    for record in records[:3]:
        forwards.keep(record)
    setattr(records[ended], event, True)
    setattr(record_of(Forwards()), event, True)  # of another model
    for record in records[3:]:
        forwards.keep(record)
    assert forwards.sequence() == records[3:]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_copies_start_without_logits(copied):
    forwards = Forwards(names=["a"], per_step=True, count=3)
    forwards.current = forwards.last = record_of(forwards)
    forwards.keep(record_of(forwards))
    forwards.keep_compiled(record_of(forwards))
    twin = copied(forwards)
    assert twin.names == ["a"] and twin.per_step and twin.ran
    assert not twin.sequence() and not twin.of_compiled_code()
    assert twin.current is None and twin.last is None and not twin.graded
    assert len(forwards.sequence()) == 1
