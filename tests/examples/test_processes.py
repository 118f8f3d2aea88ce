"""Several processes: the same training as one, one set of files, and resuming across numbers."""

import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from spikingjelly.activation_based import neuron

from tests.examples.data_sets import make_images
from tests.examples.scripts import (
    EXAMPLES,
    HANG,
    TINY,
    Script,
    succeed,
    weights,
)
from tests.ranks import NO_FSDP2

no_fsdp2 = pytest.mark.skipif(bool(NO_FSDP2), reason=NO_FSDP2)
RUN = [*TINY, "--epochs", "2", "--seed", "3", "--device", "cpu"]
TORCHRUN = [sys.executable, *"-m torch.distributed.run --standalone --nproc-per-node".split()]
# λ is to be the same in all processes, though each sees only its part of the batches.
HANDOVER = [*RUN, "--method", "handover", "--checkpoint-every", "3"]


def told(rank, size, port):
    """What torchrun tells the processes it starts."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }


def pose_as(rank, port):
    os.environ |= told(rank, 2, port)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_pair(*args, log):
    port = free_port()
    pair = [
        Script("train_cifar.py", *args, log=f"{log}{rank}", before=partial(pose_as, rank, port))
        for rank in range(2)
    ]
    return [script.wait() for script in pair]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    succeed("train_cifar.py", *HANDOVER, "--out", folder / "run", log=folder / "log")
    return folder / "run"


def assert_close(one, other):
    """Equal up to rounding, and to the few spikes that rounding makes or unmakes."""
    one, other = weights(one), weights(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4, msg=name)


def test_torchrun_trains_as_one_process_does(alone, tmp_path):
    command = [*TORCHRUN, "2", str(EXAMPLES / "train_cifar.py"), *HANDOVER]
    command += ["--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("last epoch") == 1  # one process speaks for all
    assert_close(alone, tmp_path / "run")
    one, other = (pd.read_csv(folder / "metrics.csv") for folder in (alone, tmp_path / "run"))
    pd.testing.assert_series_equal(one.loss, other.loss, rtol=1e-3)
    pd.testing.assert_series_equal(one["lambda"], other["lambda"], rtol=1e-3)
    assert one["lambda"].nunique() == 2
    for column in ("train_accuracy", "test_accuracy"):  # of 100 and 50 samples
        assert (one[column] - other[column]).abs().max() < 0.05
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert len(state["rng"]) == 2


def test_a_start_agrees_on_a_word_whatever_an_earlier_one_left_behind(example_modules):
    agree = example_modules("trainer.processes").agree
    store = torch.distributed.HashStore()
    store.set("asks 1", "one that is gone")
    words = []
    for _ in range(2):  # torchrun's restarts have one store in common
        with ThreadPoolExecutor(3) as pool:
            first, *others = pool.map(lambda rank: agree(store, rank, 3), range(3))
        assert others == [first, first] and first not in words
        words.append(first)


@no_fsdp2
def test_sharded_weights_train_alike_and_their_checkpoints_are_those_of_one_process(
    alone, tmp_path
):
    sharded, log = tmp_path / "sharded", tmp_path / "pair"
    done = run_pair(*HANDOVER, "--fsdp", "--out", sharded, log=log)
    assert [d.code for d in done] == [0, 0], done[0].err + done[1].err
    assert "in each a part of the weights" in done[0].out
    assert_close(alone, sharded)
    one, other = (pd.read_csv(folder / "metrics.csv") for folder in (alone, sharded))
    for column in ("loss", "lambda", "train_accuracy", "test_accuracy"):
        pd.testing.assert_series_equal(one[column], other[column], rtol=1e-3)
    states = [torch.load(path / "previous.pt", weights_only=True) for path in (alone, sharded)]
    shapes = [
        {name: value.shape for name, value in state["model"].items()}
        | {i: m["momentum_buffer"].shape for i, m in state["optimizer"]["state"].items()}
        for state in states
    ]
    assert shapes[0] == shapes[1]
    assert states[1]["position"]["batch"] == 4  # in the middle of the second epoch

    before = weights(sharded)
    again = run_pair("--resume", sharded / "previous.pt", log=log)
    assert [d.code for d in again] == [0, 0], again[0].err + again[1].err
    after = weights(sharded)
    assert all(torch.equal(before[name], after[name]) for name in before)

    # A checkpoint of two that share is one for a process alone, and the other way round.
    to_one, to_two = tmp_path / "to_one", tmp_path / "to_two"
    for source, folder in ((sharded, to_one), (alone, to_two)):
        folder.mkdir()
        shutil.copyfile(source / "previous.pt", folder / "last.pt")
    succeed("train_cifar.py", "--resume", to_one, log=tmp_path / "log")
    assert_close(alone, to_one)
    done = run_pair("--resume", to_two, "--fsdp", log=log)
    assert [d.code for d in done] == [0, 0], done[0].err + done[1].err
    assert_close(alone, to_two)


@no_fsdp2
def test_sharded_weights_are_there_for_the_process_with_one_batch_more_to_test(tmp_path):
    args = make_images(tmp_path / "data")
    (tmp_path / "data" / "test" / "dog" / "3.png").unlink()  # 7: one process has 4, and one has 3
    args += "--model plain:4 --width 4 --T 1 --batch-size 2 --epochs 1 --workers 0".split()
    args += ["--device", "cpu", "--at", "1", "--fsdp", "--out", tmp_path / "run"]
    done = run_pair(*args, log=tmp_path / "pair")
    assert [d.code for d in done] == [0, 0], done[0].err + done[1].err
    right = pd.read_csv(tmp_path / "run" / "metrics.csv").test_accuracy.item() * 7
    assert right == pytest.approx(round(right))


def test_a_pytorch_that_cannot_shard_on_processors_is_named(example_modules, monkeypatch):
    monkeypatch.setattr(torch.cpu, "Stream", object)
    world = example_modules("trainer.processes").World(0, 2, torch.device("cpu"))
    error = example_modules("trainer.errors").UserError
    with pytest.raises(error, match="--fsdp runs on GPUs only with PyTorch"):
        example_modules("trainer.sharding").refuse_old_pytorch(world)


def test_weights_that_cannot_be_sharded_are_named(example_modules):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), neuron.ParametricLIFNode())
    with pytest.raises(example_modules("trainer.errors").UserError, match=r"--fsdp .* 1\.w,"):
        example_modules("trainer.sharding").refuse_scalars(model)


ENDS_ITS_GROUP = """
import sys
import weakref

sys.path.insert(0, sys.argv[1])
from trainer import processes

processes.start("cpu")
group = weakref.ref(processes.dist.group.WORLD)
model = processes.nn.parallel.DistributedDataParallel(processes.nn.Linear(2, 2))
model.cycle = [model]
del model
processes.stop()
assert group() is None
"""


def test_the_group_and_its_threads_end_before_the_interpreter(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ENDS_ITS_GROUP)
    done = subprocess.run(
        [sys.executable, str(script), str(EXAMPLES)],
        env={**os.environ, **told(0, 1, free_port())},
        capture_output=True, text=True, timeout=HANG,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def kill_after_first_epoch():
    """Die when the second epoch's metrics would be written."""
    original, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if sum(str(call).endswith("metrics.csv") for call in calls) == 1:
            os._exit(9)
        original(source, target)

    os.replace = replace


def test_two_processes_go_on_with_the_run_of_one_and_the_other_way_round(alone, tmp_path):
    script = Script(
        "train_cifar.py", *HANDOVER, "--out", tmp_path / "one", log=tmp_path / "log",
        before=kill_after_first_epoch,
    )  # fmt: skip
    assert script.wait().code == 9
    done = run_pair("--resume", tmp_path / "one", log=tmp_path / "pair")
    assert [d.code for d in done] == [0, 0], done[0].err + done[1].err
    assert "started with 1 processes, going on with 2" in done[0].out
    assert_close(alone, tmp_path / "one")

    whole = run_pair(*HANDOVER, "--out", tmp_path / "two", log=tmp_path / "pair")
    assert [d.code for d in whole] == [0, 0], whole[0].err + whole[1].err
    previous = tmp_path / "two" / "previous.pt"
    state = torch.load(previous, weights_only=True)
    assert (state["position"]["epoch"], state["position"]["batch"]) == (1, 4)
    assert state["schedule"]["batches"] == 8  # four of each process
    before = weights(tmp_path / "two")
    again = run_pair("--resume", previous, log=tmp_path / "pair")
    assert [d.code for d in again] == [0, 0], again[0].err + again[1].err
    after = weights(tmp_path / "two")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_two_processes_with_heads_unused_per_step_and_in_step_mode_s(tmp_path):
    ways = (
        "--lambda-start 0",
        "--step-mode s --method evolutionary --combine logits",
        "--per-step --method vanilla",
    )
    for i, flags in enumerate(ways):
        one, two = tmp_path / f"one{i}", tmp_path / f"two{i}"
        args = [*RUN, *flags.split()]
        succeed("train_cifar.py", *args, "--out", one, log=tmp_path / "log")
        done = run_pair(*args, "--out", two, log=tmp_path / "pair")
        assert [d.code for d in done] == [0, 0], done[0].err + done[1].err
        assert_close(one, two)


def test_a_batch_that_cannot_be_shared_is_refused_by_process_0_alone(tmp_path):
    done = run_pair(*RUN, "--batch-size", "7", "--out", tmp_path / "run", log=tmp_path / "pair")
    assert "cannot be shared by 2 processes" in done[0].error
    assert done[1].code == 2


def test_an_error_in_one_process_ends_the_others_with_one_line_each(tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(6):
                pixels = np.full((8, 8, 3), 40 * i, np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{i}.png")
    args = "--dataset folder --image-size 8 --model plain:4 --width 4 --T 1 --batch-size 4".split()
    args += "--epochs 3 --workers 0 --device cpu --at 1".split()
    args += ["--data-dir", tmp_path / "data", "--out", tmp_path / "run"]
    broken = tmp_path / "data" / "test" / "dog" / "1.png"  # of odd index, so of process 1
    broken.write_text("no image")
    done = run_pair(*args, log=tmp_path / "pair")
    assert str(broken) in done[1].error
    assert "another process has failed" in done[0].error
