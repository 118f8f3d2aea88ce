"""docs/paper.md: its code runs, its links and files exist, and its numbers are the library's."""

import re
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
    modules = {"torch": torch, "nn": nn, "functional": functional}
    mine = {"model": Net(), "loader": loader, "epochs": 2}
    return {**modules, "remove_shortcuts": remove_shortcuts, **mine}


@pytest.mark.filterwarnings("error:.*shortcut")
@pytest.mark.filterwarnings("error::sj_shortcut.ShortcutWarning")
def test_the_recipe_runs_and_ends_at_zero() -> None:
    names = namespace()
    exec(compile(FIRST, "docs/paper.md", "exec"), names)
    assert list(shortcut_branches(names["model"])) == ["layer1.1", "layer2.1"]
    remove_shortcuts(names["model"])
    exec(compile(RECIPE, "docs/paper.md", "exec"), names)
    assert names["criterion"].schedule.coefficient == 0
    assert not has_shortcuts(names["model"])
    assert names["optimizer"].param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    lif = names["lif"]()
    functional.set_step_mode(lif, "m")
    # The paper's neuron: u <- 0.5 u + c, a spike from 1 on, then 0.
    assert lif(torch.tensor([0.75, 0.5, 0.875, 0.5])).tolist() == [0, 0, 1, 0]


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
