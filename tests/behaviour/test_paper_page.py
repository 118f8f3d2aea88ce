"""docs/paper.md: its code runs, its links and files exist, and its numbers are the library's."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import nn

from sj_shortcut import EvolutionarySchedule, has_shortcuts, remove_shortcuts, shortcut_branches
from tests.nets.small import Net, images, labels

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "paper.md").read_text("utf-8")
FIRST, RECIPE = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)
# Nothing may say that the paper leaves open what it settles.
OPEN = r"as we read it|what we know of the paper|does not settle (which|whether|the shape)"


def namespace() -> dict:
    torch.manual_seed(0)
    loader = [(images(size), labels(size)) for size in (6, 6, 2)]
    return {"torch": torch, "nn": nn, "functional": functional, "remove_shortcuts": remove_shortcuts,
            "model": Net(), "loader": loader, "epochs": 2}  # fmt: skip


@pytest.mark.filterwarnings("error:.*shortcut")
@pytest.mark.filterwarnings("error::sj_shortcut.ShortcutWarning")
def test_the_recipe_runs_and_ends_at_zero() -> None:
    names = namespace()
    exec(compile(FIRST, "docs/paper.md", "exec"), names)
    assert list(shortcut_branches(names["model"])) == ["layer1.1", "layer2.1"]
    remove_shortcuts(names["model"])
    names["functional"] = functional
    exec(compile(RECIPE, "docs/paper.md", "exec"), names)
    assert names["criterion"].schedule.coefficient == 0
    assert not has_shortcuts(names["model"])
    assert names["optimizer"].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    lif = names["lif"]()
    functional.set_step_mode(lif, "m")
    # The paper's neuron: u <- 0.5 u + c, a spike from 1 on, then 0.
    assert lif(torch.tensor([0.75, 0.5, 0.875, 0.5])).tolist() == [0, 0, 1, 0]


def test_the_command_is_one_of_the_examples(example_modules) -> None:
    (command,) = re.findall(r"^python examples/train_cifar\.py (.*?)^```", TEXT, re.M | re.S)
    parser = example_modules("train_cifar").build_parser()
    argv = shlex.split(command.replace("\\\n", " "))
    args = example_modules("trainer.settings").parse(parser, argv)
    papers = {"method": "evolutionary", "at": "stages", "grid": 1, "combine": "logits"}
    papers |= {"lambda_start": 0.25, "lambda_end": 0, "hold": 0, "finish": 1, "schedule": "linear"}
    papers |= {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.02, "batch_size": 128}
    papers |= {"epochs": 300, "decay": 0.5, "threshold": 1}
    assert {name: getattr(args, name) for name in papers} == papers


def test_links_and_files_exist() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", TEXT)
    assert len(links) >= 3
    for link in links:
        assert (ROOT / "docs" / link).is_file(), link
    files = re.findall(r"`(\w+/\w+(?:/\w+)*\.py)`", TEXT)
    assert len(files) >= 10
    for file in files:
        assert any((top / file).is_file() for top in (ROOT, ROOT / "sj_shortcut")), file


def test_what_bears_the_papers_name_has_its_values() -> None:
    schedule = EvolutionarySchedule(300)
    assert "λ = 0.25" in TEXT and schedule(0) == 0.25
    assert [schedule(epoch) for epoch in (150, 300)] == [0.125, 0]


def test_nothing_leaves_open_what_the_paper_settles() -> None:
    for folder in ("sj_shortcut", "examples", "docs", "analysis"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md"):
                text = " ".join(path.read_text("utf-8").split())
                assert not re.search(OPEN, text), path
    assert not re.search(OPEN, " ".join((ROOT / "README.md").read_text("utf-8").split()))
