"""The scripts of docs/tutorials/many_gpus.md, run by torchrun: two processes on a CPU, gloo."""

import re
import subprocess
import sys

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from spikingjelly.activation_based import functional
from torch import nn

from sj_shortcut import shortcut_branches
from tests import pages
from tests.ranks import NO_FSDP2

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="PyTorch lacks gloo")

PAGE = pages.ROOT / "docs" / "tutorials" / "many_gpus.md"
NETWORK, ALONE, DDP, BATCH_NORM = [
    block.code for block in pages.blocks_of(PAGE) if block.language == "python"
]
(DIFF,) = [block.code for block in pages.blocks_of(PAGE) if block.language == "diff"]

# Runs main() of train.py, and keeps what each process has before the heads go.
SPY = """
import os
import torch
import train

loss, remove, kept = train.ShortcutLoss, train.remove_shortcuts, {}

def make(*args):
    kept["criterion"] = loss(*args)
    return kept["criterion"]

def look(model):
    weights = {
        name: p.full_tensor() if hasattr(p, "full_tensor") else p.detach()
        for name, p in model.named_parameters()
    }
    coefficients = kept["criterion"].schedule.coefficients
    torch.save({"weights": weights, "λ": coefficients}, f"rank{os.environ['RANK']}.pt")
    return remove(model)

train.ShortcutLoss, train.remove_shortcuts = make, look
train.main()
train.gc.collect()
train.dist.destroy_process_group()
"""


def patched(script: str, diff: str) -> str:
    """A script after a diff, of which each part has to fit in one place."""
    for part in filter(None, re.split(r"^@@.*\n", diff, flags=re.M)):
        before, after = ("\n".join(_lines(part, marks)) for marks in (" -", " +"))
        assert script.count(before) == 1, before
        script = script.replace(before, after)
    return script


def _lines(part: str, marks: str) -> list[str]:
    lines = [line or " " for line in part.splitlines()]
    return [line[1:] for line in lines if line[0] in marks]


FSDP = patched(DDP, DIFF)


def torchrun(folder, script, epochs, main="train.py"):
    folder.mkdir(exist_ok=True)
    (folder / "network.py").write_text(NETWORK)
    (folder / "train.py").write_text(
        script.replace("EPOCHS, BATCH = 4", f"EPOCHS, BATCH = {epochs}")
    )
    (folder / "spy.py").write_text(SPY)
    return run(folder, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", main)


def run(folder, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, env=pages.environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two epochs of DistributedDataParallel at once."""
    folder = tmp_path_factory.mktemp("ddp")
    torchrun(folder, DDP, 2, "spy.py")
    return folder


def loaded(folder, name):
    return torch.load(folder / name, weights_only=True)


def same(one, other):
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


def test_the_script_prints_saves_and_logs_on_one_process(tmp_path):
    printed = torchrun(tmp_path / "one", DDP, 1)
    assert re.fullmatch(r"epoch 0: loss \d+\.\d\d\n", printed)
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {"last.pt", "model.pt", "logs"} < names
    log = pd.read_csv(tmp_path / "one" / "logs" / "shortcuts.csv")
    assert not log.duplicated(["step", "name"]).any()
    assert {"loss/main", "lambda/stage1.5", "firing_rate/stage1.0"} < set(log.name)


def test_processes_end_alike_and_heads_follow_the_training(whole):
    one, other = loaded(whole, "rank0.pt"), loaded(whole, "rank1.pt")
    assert same(one["weights"], other["weights"])
    assert one["λ"] == other["λ"] and set(one["λ"]) == {"stage1.5", "stage2.5"}
    assert min(one["λ"].values()) < 1


def test_what_is_saved_in_the_end_is_the_plain_network(whole):
    names = {"__name__": "network"}
    exec(compile(NETWORK, PAGE, "exec"), names)
    names["Net"]().load_state_dict(loaded(whole, "model.pt"), strict=True)


@pytest.mark.slow
def test_a_training_that_was_stopped_ends_as_one_that_was_not(whole, tmp_path):
    torchrun(tmp_path, DDP, 1)
    printed = torchrun(tmp_path, DDP, 2, "spy.py")
    assert printed.startswith("epoch 1: ")
    assert same(loaded(tmp_path, "rank1.pt")["weights"], loaded(whole, "rank0.pt")["weights"])
    assert loaded(tmp_path, "rank1.pt")["λ"] == loaded(whole, "rank0.pt")["λ"]


@pytest.mark.skipif(bool(NO_FSDP2), reason=NO_FSDP2)
@pytest.mark.slow
def test_fsdp_stopped_and_resumed_ends_as_distributed_data_parallel(whole, tmp_path):
    torchrun(tmp_path, FSDP, 1)
    torchrun(tmp_path, FSDP, 2, "spy.py")
    for rank in range(2):
        ended = loaded(tmp_path, f"rank{rank}.pt")
        expected = loaded(whole, "rank0.pt")
        for name, weight in expected["weights"].items():
            torch.testing.assert_close(ended["weights"][name], weight, rtol=1e-4, atol=1e-5)
        assert ended["λ"] == pytest.approx(expected["λ"])
    assert loaded(tmp_path, "model.pt").keys() == loaded(whole, "model.pt").keys()


def test_what_it_begins_with_runs_in_one_process(tmp_path):
    (tmp_path / "network.py").write_text(NETWORK)
    (tmp_path / "alone.py").write_text(ALONE.replace("range(4)", "range(1)"))
    assert re.fullmatch(r"epoch 0: loss \d+\.\d\d\n", run(tmp_path, "alone.py"))


def test_norms_are_converted_in_step_mode_s(tmp_path, monkeypatch):
    (tmp_path / "network.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "network", raising=False)
    names = {"__name__": "page"}
    exec(compile(BATCH_NORM, PAGE, "exec"), names)
    monkeypatch.delitem(sys.modules, "network")
    model = names["model"]
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in model.modules()) == 6
    assert len(shortcut_branches(model)) == 2
    assert model.eval()(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    functional.reset_net(model)


def test_messages_are_those_of_the_troubleshooting_page():
    section = PAGE.read_text("utf-8").split("## When it fails\n")[1]
    quoted = re.findall(r"^\| `(.+?)` \|", section, re.M)
    texts = (pages.ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    assert len(quoted) == 7
    assert [text for text in quoted if text not in texts] == []
