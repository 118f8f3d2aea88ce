"""Who is told when λ has moved."""

import copy
import gc
import pickle

import pytest

from sj_shortcut import EvolutionarySchedule, HandoverSchedule, ShortcutSchedule
from sj_shortcut.schedules.readers import Readers


class Noted:
    """Notes λ whenever it is told."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def follow(self, schedule: ShortcutSchedule) -> None:
        self.seen.append(schedule.coefficient)


class Late(ShortcutSchedule):
    """λ of an epoch is not known before its step has ended."""

    def __init__(self) -> None:
        self.table = {0: 1.0}

    def __call__(self, epoch: float) -> float:
        return self.table[int(epoch)]

    def step(self, epoch: float | None = None) -> None:
        super().step(epoch)
        self.table[int(self.last_epoch)] = 2.0


class Later(Late):
    def step(self, epoch: float | None = None) -> None:
        super().step(epoch)
        self.table[int(self.last_epoch)] = 3.0


def test_readers_are_told_at_once_and_after_each_step_and_load():
    schedule, reader = EvolutionarySchedule(4, start=1.0), Noted()
    schedule.add_reader(reader)
    schedule.step()
    schedule.step(2.5)
    schedule.load_state_dict(EvolutionarySchedule(4, start=0.5).state_dict())
    assert reader.seen == [1.0, 0.75, 0.375, 0.5]
    schedule.remove_reader(reader)
    schedule.step()
    assert len(reader.seen) == 4


@pytest.mark.parametrize(("kind", "expected"), [(Late, 2.0), (Later, 3.0)])
def test_they_are_told_once_the_step_of_the_last_subclass_is_through(kind, expected):
    schedule, reader = kind(), Noted()
    schedule.add_reader(reader)
    schedule.step()
    assert reader.seen == [1.0, expected]


def test_they_are_told_where_a_step_ends_in_an_error():
    class Failing(EvolutionarySchedule):
        def step(self, epoch: float | None = None) -> None:
            super().step(epoch)
            raise RuntimeError("afterwards")

    schedule, reader = Failing(4, start=1.0), Noted()
    schedule.add_reader(reader)
    with pytest.raises(RuntimeError, match="afterwards"):
        schedule.step()
    assert reader.seen == [1.0, 0.75]


def test_readers_are_held_weakly():
    schedule = HandoverSchedule()
    schedule.add_reader(Noted())
    gc.collect()
    assert list(schedule._readers) == []


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_has_the_copies_of_its_readers(copied):
    schedule, reader = EvolutionarySchedule(4, start=1.0), Noted()
    schedule.add_reader(reader)
    twin, other = copied((schedule, reader))
    twin.step()
    assert (reader.seen, other.seen) == ([1.0], [1.0, 0.75])
    assert list(twin._readers) == [other]
    assert list(copied(schedule)._readers) == []


def test_readers_are_no_part_of_the_state():
    schedule, reader = EvolutionarySchedule(4), Noted()
    before = schedule.state_dict()
    schedule.add_reader(reader)
    assert schedule.state_dict() == before


def test_readers_with_and_without_one():
    one, two = Noted(), Noted()
    readers = Readers([one]).having(two).having(two)
    assert list(readers) == [one, two]
    assert list(readers.without(one)) == [two]
