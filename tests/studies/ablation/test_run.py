"""One training of the ablation study, and what is measured of it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from analysis.ablation.run import Training, firing_rates_in_training


def test_measuring_untrained_firing_changes_nothing(vanilla) -> None:
    training = Training(replace(vanilla, epochs=1))
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    rates = firing_rates_in_training(training.model, [x for x, _ in training.probes])
    assert rates == training.untrained and all(0 < rate < 1 for rate in rates)
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("combine", ["logits", "loss"])
def test_the_papers_coefficient_falls_at_every_step(vanilla, combine) -> None:
    run = replace(vanilla, at="stages", head="average", combine=combine, start=0.25, epochs=2)
    training = Training(replace(run, schedule="linear-by-step"))
    found = []

    def note(module, args) -> None:
        if module.training:
            found.append(training.schedule.coefficient)

    training.model.register_forward_pre_hook(note)
    for epoch in (1, 2):
        before = len(found)
        training.one_epoch(epoch)
        steps = len(training.x) // training.batch
        expected = [0.25 * (1 - (epoch - 1 + step / steps) / 2) for step in range(steps)]
        assert found[before : before + steps] == pytest.approx(expected)
    assert training.schedule.coefficient == 0


def test_validation_data_are_no_training_data(vanilla) -> None:
    training = Training(vanilla)
    parts = [training.x, training.val_x, training.test_x]
    assert sum(map(len, parts)) == 1797
    share = torch.bincount(training.val_y) / len(training.val_y)
    assert (share - torch.bincount(training.y) / len(training.y)).abs().max() < 0.01


def test_clipping_bounds_the_gradient_and_keeps_the_keys_of_other_runs(vanilla) -> None:
    assert vanilla.key == "543c3d5c"
    clipped = replace(vanilla, clip=0.01, epochs=1)
    assert clipped.key != replace(clipped, clip=0.0).key
    norms = {}
    for run in (clipped, replace(clipped, clip=0.0)):
        training = Training(run)
        training.one_epoch(1)
        parameters = training.model.parameters()
        norms[run.clip] = float(nn.utils.clip_grad_norm_(parameters, float("inf")))
    assert norms[0.01] <= 0.01001 < norms[0.0]
