from sj_shortcut import (
    GradientRecorder,
    every_steps,
    log_spaced_steps,
)
from tests.gradients.tools import train_step
from tests.nets.small import Net


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
