import pytest

from sj_shortcut import GradientRecorder, every_steps, log_spaced_steps
from sj_shortcut.gradients.when import as_predicate
from tests.gradients.tools import train_step
from tests.nets.small import Net
from tests.refusals import refused


def test_when() -> None:
    assert [s for s in range(12) if every_steps(5)(s)] == [0, 5, 10]
    due = [step for step in range(10_001) if log_spaced_steps(10)(step)]
    assert due[:4] == [0, 1, 2, 3] and {10, 100, 1000, 10_000} <= set(due)
    assert sum(100 <= step < 1000 for step in due) == 10
    model = Net()
    with GradientRecorder(model, when=lambda step: step == 2) as recorder:
        for _ in range(4):
            train_step(model, recorder)
    assert recorder.frame.step.unique().tolist() == [2]


@pytest.mark.parametrize("when", [True, "often", None, 2.5])
def test_when_must_be_a_number_or_a_predicate(when: object) -> None:
    with refused(
        TypeError,
        "when must be a number of steps or a predicate of the step, such as every_steps(100), "
        f"got {when!r}.",
    ):
        as_predicate(when)


@pytest.mark.parametrize(("count", "start"), [(0, 0), (-1, 0), (1, -1)])
def test_steps_are_counted_from_the_first(count: int, start: int) -> None:
    with refused(
        ValueError, f"count must be at least 1 and start at least 0, got {count}, {start}."
    ):
        every_steps(count, start)


def test_a_decade_has_a_measurement() -> None:
    with refused(ValueError, "per_decade must be at least 1, got 0."):
        log_spaced_steps(0)


def test_a_number_is_short_for_every_so_many_steps() -> None:
    assert [step for step in range(9) if as_predicate(4)(step)] == [0, 4, 8]
    own = [3].count
    assert as_predicate(own) is own
