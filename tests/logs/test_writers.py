"""Where numbers go."""

import warnings

import pytest
from torch.utils.tensorboard import SummaryWriter

from sj_shortcut import ShortcutWarning
from sj_shortcut.logs.writers import csv_writer, writer_for
from tests.refusals import refused

VALUES = {"loss/main": 0.1 + 0.2, "accuracy/layer1.0": 1.0}


def test_csv_is_appended_to_and_exact(tmp_path):
    for step in (3, 4):
        csv_writer(tmp_path / "new" / "run.csv")(VALUES, step)
    lines = (tmp_path / "new" / "run.csv").read_text("utf-8").splitlines()
    assert lines[0] == "step,name,value" and len(lines) == 5
    assert lines[1] == "3,loss/main,0.30000000000000004"


def test_a_training_that_goes_on_is_added_and_one_begun_anew_is_told_of(tmp_path):
    file = tmp_path / "run.csv"
    for step in (0, 50):
        csv_writer(file)(VALUES, step)
    before = file.read_text("utf-8")
    write = csv_writer(file)
    with pytest.warns(ShortcutWarning, match="has numbers of step 50 or later already.*start="):
        write(VALUES, 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(VALUES, 100)
    after = file.read_text("utf-8")
    assert after.startswith(before) and len(after.splitlines()) == 9


def test_another_file_is_not_written_to(tmp_path):
    file = tmp_path / "shortcuts.csv"
    file.write_text("epoch,loss\n1,2\n")
    with refused(
        ValueError, f"{file} has other columns than step, name, value: name a file of its own."
    ):
        writer_for(tmp_path)
    assert file.read_text() == "epoch,loss\n1,2\n"


def test_tensorboard_gets_each_number(tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    with SummaryWriter(str(tmp_path)) as board:
        writer_for(board)(VALUES, 5)
    events = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    (scalar,) = events.Scalars("loss/main")
    assert scalar.step == 5 and scalar.value == pytest.approx(0.3)


class Keeps:
    def __init__(self):
        self.kept = []


class LikeLightning(Keeps):
    def log_metrics(self, values, step):
        self.kept.append((values, step))


class LikeWandb(Keeps):
    def log(self, values, step):
        self.kept.append((values, step))


@pytest.mark.parametrize("kind", [LikeLightning, LikeWandb])
def test_loggers_get_all_at_once(kind):
    logger = kind()
    writer_for(logger)(VALUES, 2)
    assert logger.kept == [(VALUES, 2)]


def test_what_takes_no_numbers_is_refused():
    with refused(
        TypeError,
        "numbers are written to a path, to an object with add_scalar (TensorBoard), log_metrics "
        "(Lightning) or log (Weights & Biases), or by a function (values, step); got int.",
    ):
        writer_for(3)
