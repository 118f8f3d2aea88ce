"""Rules: what each makes of m = 1 for the output, and 2, 4 and 0.5 for the heads."""

from dataclasses import replace

import pytest
import torch

from analysis.ablation.rules import RULES, Race, Remaining
from analysis.ablation.run import Training

DECIDED = {
    "ratio-each": [0.5, 0.25, 1.0],
    "ratio-squared": [0.25, 0.0625, 1.0],
    "ratio-all": [1 / (6.5 / 3)] * 3,
    "ratio-best": [1.0] * 3,
    "remaining": [1.0] * 3,
    "overtaken": [0.5, 0.5, 1.0],
    "race": [1.0] * 3,
}


@pytest.mark.parametrize("name", DECIDED)
def test_rules(name) -> None:
    schedule = RULES[name](1.0)
    losses = {"main": 1.0, "a": 2.0, "b": 4.0, "c": 0.5}
    schedule.observe({head: torch.tensor(loss) for head, loss in losses.items()})
    schedule.step()
    assert [schedule.coefficient_of(head) for head in "abc"] == pytest.approx(DECIDED[name])


def test_what_is_left_of_the_loss() -> None:
    schedule = Remaining()
    for output in (2.0, 1.0, 0.5):
        schedule.observe({"main": torch.tensor(output), "a": torch.tensor(1.0)})
        schedule.step()
    assert [schedule(epoch) for epoch in range(4)] == [1, 1, 0.5, 0.25]


def test_who_falls_faster() -> None:
    schedule = Race()
    for output, head in ((2.0, 2.0), (1.0, 1.5), (0.5, 1.0), (0.5, 0.9), (0.5, 0.8), (0.5, 0.7)):
        schedule.observe({"main": torch.tensor(output), "a": torch.tensor(head)})
        schedule.step()
    assert [schedule(epoch) for epoch in range(7)] == [1, 1, 0.5, 0.25, 0.5, 1, 1]


@pytest.mark.parametrize("name", ["gradient-norm", "coherence"])
def test_rules_that_look_at_gradients_leave_the_model_alone(name, vanilla) -> None:
    training = Training(replace(vanilla, at="every:3", head="grid4", schedule=name))
    before = {key: value.clone() for key, value in training.model.state_dict().items()}
    training.schedule.probe(training.model, training.probes)
    assert 0 <= training.schedule.probed <= 1
    after = training.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
