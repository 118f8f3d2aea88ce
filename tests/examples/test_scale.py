"""Long and large runs: jobs that are started again, parts of batches, class weights, crops."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.examples.scripts import (
    EXAMPLES,
    HANG,
    ROOT,
    TINY,
    Script,
    assert_same_weights,
    run,
    succeed,
    weights,
)
from tests.examples.test_checkpoint import die_in
from tests.examples.test_processes import assert_close, free_port

RUN = [*TINY, "--epochs", "6", "--checkpoint-every", "2", "--device", "cpu"]


def test_auto_starts_a_run_and_goes_on_with_it(tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    auto = [*RUN, "--out", folder, "--resume", "auto"]
    killed = run("train_cifar.py", *auto, log=log, before=partial(die_in, "replace", 20))
    assert killed.code == -signal.SIGKILL and "epoch 1/6" in killed.out
    done = succeed("train_cifar.py", *auto, log=log)
    assert "epoch 1/" not in done.out and "epoch 6/6" in done.out
    succeed("train_cifar.py", *auto[:-4], "--out", tmp_path / "whole", log=log)
    assert_same_weights(folder, tmp_path / "whole")
    error = run("train_cifar.py", *auto, "--seed", "1", log=log).error
    assert "--seed 1 contradicts" in error


def test_a_slurm_job_is_queued_again_when_its_time_is_over_and_not_when_it_is_done(tmp_path):
    page = (ROOT / "docs" / "long_runs.md").read_text()
    job = "#!/bin/sh\n" + page.partition("```sh\n#!/bin/sh\n")[2].partition("```")[0]
    assert "--signal=B:USR1@120" in job  # to the script, and not to what it has started
    # What is not on this machine: SLURM's two commands, of which the first passes signals on.
    python = f'exec "{sys.executable}" "$@"'
    for name, does in (("srun", 'exec "$@"'), ("scontrol", 'echo "$@" >queue'), ("python", python)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    jobs = {}
    for epochs in ("100000", "1"):
        folder = tmp_path / epochs
        folder.mkdir()
        (folder / "examples").symlink_to(EXAMPLES)
        asked = "--model resnet19 --epochs 300 --out runs/long --resume auto"
        flags = f"{' '.join(TINY)} --epochs {epochs} --out run --resume auto"
        assert job.count(asked) == 1
        (folder / "job.sh").write_text(job.replace(asked, flags))
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        library = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with open(folder / "out", "w") as out:
            jobs[folder] = subprocess.Popen(
                ["sh", "job.sh"], cwd=folder, stdout=out, stderr=out,
                env={**os.environ, "PATH": path, "PYTHONPATH": library, "SLURM_JOB_ID": "17"},
            )  # fmt: skip
    (long, limited), (short, finished) = jobs.items()
    while "epoch 1/" not in (long / "out").read_text():
        assert limited.poll() is None, (long / "out").read_text()
        time.sleep(0.05)
    limited.send_signal(signal.SIGUSR1)
    limited.wait(HANG), finished.wait(HANG)
    assert "all saved; go on with" in (long / "out").read_text()
    assert (long / "run" / "last.pt").exists() and (long / "queue").read_text() == "requeue 17\n"
    assert (short / "run" / "model.pt").exists() and not (short / "queue").exists()


def ignore_hangups():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_a_terminal_that_closes_ends_after_a_checkpoint_and_under_nohup_not_at_all(tmp_path):
    long = [*TINY, "--epochs", "100000"]
    script = Script("train_cifar.py", *long, "--out", tmp_path / "run", log=tmp_path / "log")
    limited = Script("train_cifar.py", *long, "--out", tmp_path / "usr1", log=tmp_path / "log3")
    under_nohup = Script(
        "train_cifar.py", *long, "--out", tmp_path / "nohup", log=tmp_path / "log2",
        before=ignore_hangups,
    )  # fmt: skip
    for each, number in ((script, "HUP"), (under_nohup, "HUP"), (limited, "USR1")):
        each.wait_for("epoch 1/")
        each.send(getattr(signal, f"SIG{number}"))
    assert script.wait().code == 128 + signal.SIGHUP
    done = limited.wait()  # as by sbatch --signal=USR1@120, which tells all processes
    assert done.code == 128 + signal.SIGUSR1 and f"--resume {tmp_path / 'usr1'}" in done.out
    done = under_nohup.output().count("\nepoch ")
    under_nohup.wait_for(f"epoch {done + 2}/")
    under_nohup.process.kill()
    under_nohup.process.join()


# Starts the script, and in the first attempt kills process 0 while it writes.
DYING = """
import os, runpy, sys

sys.path[:0] = sys.argv[1:3]
if (os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]) == (sys.argv[3], "0"):
    from tests.examples.test_checkpoint import die_in
    die_in("replace", 20)
sys.argv = [sys.argv[2] + "/train_cifar.py", *sys.argv[4:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_two_nodes_restart_from_the_last_checkpoint_when_a_process_is_killed(tmp_path):
    (tmp_path / "dying.py").write_text(DYING)
    flags = "--nnodes 2 --nproc-per-node 1 --max-restarts 2 --rdzv-backend c10d --rdzv-id run"
    nodes = [sys.executable, *"-m torch.distributed.run".split(), *flags.split()]
    nodes += ["--rdzv-endpoint", f"localhost:{free_port()}", str(tmp_path / "dying.py"), str(ROOT)]
    nodes += [str(EXAMPLES), "0", *RUN, "--resume", "auto", "--out", str(tmp_path / "killed")]
    agents = [
        subprocess.Popen(nodes, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    succeed("train_cifar.py", *RUN, "--out", tmp_path / "whole", log=tmp_path / "log")
    done = [agent.communicate(timeout=HANG) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], done[0][1] + done[1][1]
    out = done[0][0] + done[1][0]
    assert out.count("last epoch") == 1
    assert out.count("results in") == 2
    assert out.count("epoch 1/6") == 1
    assert_close(tmp_path / "whole", tmp_path / "killed")
    rows = [pd.read_csv(tmp_path / name / "metrics.csv") for name in ("whole", "killed")]
    assert rows[1].epoch.tolist() == list(range(1, 7))
    pd.testing.assert_series_equal(rows[0].loss, rows[1].loss, rtol=1e-3)


NO_NORM = (
    "from torch import nn\n"
    "from spikingjelly.activation_based import layer, neuron\n"
    "def net():\n"
    "    return nn.Sequential(layer.Flatten(), layer.Linear(64, 16), neuron.LIFNode(),\n"
    "        layer.Linear(16, 12), neuron.LIFNode(), layer.Linear(12, 10))\n"
)


def test_a_batch_in_parts_is_the_same_step(tmp_path):
    (tmp_path / "mine.py").write_text(NO_NORM)
    own = [*TINY[:2], *TINY[6:], "--model", "mine:net", "--epochs", "2", "--clip-grad", "1"]
    for parts in ("1", "4"):
        args = [*own, "--accumulate", parts, "--out", tmp_path / parts]
        succeed("train_cifar.py", *args, log=tmp_path / "log", cwd=tmp_path)
    assert_close(tmp_path / "1", tmp_path / "4")
    rows = [pd.read_csv(tmp_path / parts / "metrics.csv") for parts in ("1", "4")]
    for column in ("loss", "loss_main", "train_accuracy"):
        pd.testing.assert_series_equal(rows[0][column], rows[1][column], rtol=1e-3)
    args = [*TINY, "--accumulate", "3", "--out", tmp_path / "3"]
    error = run("train_cifar.py", *args, log=tmp_path / "log").error
    assert "--accumulate 3" in error and "20" in error


def test_balanced_class_weights_and_random_resized_crops(tmp_path, example_modules):
    for part, name, number in (("train", "cat", 12), ("train", "dog", 4), ("test", "cat", 4),
                               ("test", "dog", 4)):  # fmt: skip
        (tmp_path / "data" / part / name).mkdir(parents=True)
        for i in range(number):
            pixels = np.full((20, 24, 3), 10 * i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{i}.png")
    flags = (
        "--dataset folder --image-size 14 --model plain:4 --width 4 --T 1 --batch-size 8".split()
    )
    flags += ["--data-dir", str(tmp_path / "data"), "--epochs", "1", "--workers", "0", "--at", "1"]
    flags += ["--class-weights", "balanced", "--random-resized-crop"]
    parser = example_modules("train_cifar").build_parser()
    args = example_modules("trainer.settings").parse(parser, flags)
    data = example_modules("trainer.images").load(args)
    assert data.train[0][0].shape == data.test[0][0].shape == (3, 14, 14)
    found = example_modules("trainer.building").class_weights(args, data)
    assert found.tolist() == pytest.approx([16 / 24, 16 / 8])
    assert found @ torch.tensor([12.0, 4.0]) == 16  # the mean weight of a sample is 1
    even = argparse.Namespace(class_weights="equal")
    assert example_modules("trainer.building").class_weights(even, data) is None
    for name, changed in (("balanced", []), ("equal", ["--class-weights", "equal"])):
        succeed("train_cifar.py", *flags, *changed, "--out", tmp_path / name, log=tmp_path / "log")
    one, other = weights(tmp_path / "balanced"), weights(tmp_path / "equal")
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_the_time_spent_waiting_for_data_is_told(tmp_path):
    args = [*TINY, "--epochs", "1", "--crop", "--out", tmp_path / "run"]
    succeed("train_cifar.py", *args, log=tmp_path / "log")
    share = pd.read_csv(tmp_path / "run" / "metrics.csv").waiting.item()
    assert 0 < share < 1


def test_how_fast_data_come_without_training(tmp_path):
    for workers in ("0", "1"):
        args = [*TINY, "--workers", workers, "--load-only", "--out", tmp_path / "run"]
        done = succeed("train_cifar.py", *args, log=tmp_path / "log")
        assert re.fullmatch(rf"\d+ images/s without training, --workers {workers}\n", done.out)
    assert not (tmp_path / "run").exists()


def test_the_commands_of_the_page_on_long_runs_are_understood(example_modules):
    page = (EXAMPLES.parent / "docs" / "long_runs.md").read_text().replace("\\\n", " ")
    found = re.findall(r"examples/(train_\w+)\.py (-[^\n`&]+)", page)
    assert len(found) == 6
    for script, flags in found:
        parser = example_modules(script).build_parser()
        args = example_modules("trainer.settings").parse(parser, flags.split())
        assert args.resume is None and args.out.lstrip("/").startswith(("runs/", "shared/runs/"))
