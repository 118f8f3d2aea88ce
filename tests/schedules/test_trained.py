"""Which model was trained with a schedule."""

import copy
import gc
import pickle

import pytest
from torch import nn

from sj_shortcut import EvolutionarySchedule
from sj_shortcut.schedules import Trained


def test_it_is_told_from_any_other_model_also_once_it_is_gone():
    one, other = nn.Linear(1, 1), nn.Linear(1, 1)
    trained = Trained(one)
    assert not Trained().is_not(one)
    assert not trained.is_not(one)
    assert trained.is_not(other)
    del one
    gc.collect()
    assert trained.is_not(other)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_of_a_copy_it_is_not_known(copied):
    model, schedule = nn.Linear(1, 1), EvolutionarySchedule(4)
    schedule.trained_by = Trained(model)
    assert not copied(schedule).trained_by.is_not(nn.Linear(1, 1))


def test_it_is_no_part_of_the_state_nor_is_the_number_of_steps():
    schedule = EvolutionarySchedule(4)
    before = schedule.state_dict()
    schedule.trained_by = Trained(nn.Linear(1, 1))
    schedule.step()
    schedule.step(0)
    assert (schedule.state_dict(), schedule.steps_taken) == (before, 1)
