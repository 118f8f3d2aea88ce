"""README.md is short, its code runs before and after the three lines, and its commands exist."""

import re

import pytest
import torch

from sj_shortcut import has_shortcuts
from tests import pages

TEXT = pages.README.read_text("utf-8")


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 150


@pytest.mark.filterwarnings("error:.*shortcut", "error::sj_shortcut.ShortcutWarning")
def test_its_code_runs_one_block_after_the_other(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = pages.run(pages.README, lambda: capsys.readouterr().out)
    assert has_shortcuts(names["model"])
    heads = list(names["weights"])
    assert list(names["losses"]) == ["total", "main", *heads] and len(heads) >= 2
    assert set(names["weights"].values()) == {1.0}


def test_the_diff_is_the_three_lines():
    (diff,) = [block.code for block in pages.blocks_of(pages.README) if block.language == "diff"]
    added = [line for line in diff.splitlines() if line.startswith("+")]
    removed = [line for line in diff.splitlines() if line.startswith("-")]
    assert len(added) == 5, "an import, the three lines, and the removal"
    assert removed == ["-criterion = nn.CrossEntropyLoss()"]
    assert all(f"# {number}" in "\n".join(added) for number in (1, 2, 3))


def test_block_sides_of_a_diff():
    before, after = pages.sides(" a\n+b\n-c\n\n d\n")
    assert before == "a\n\nc\n\nd\n" and after == "a\nb\n\n\nd\n"
    with pytest.raises(AssertionError):
        pages.sides("a\n")


def test_it_answers_what_a_new_reader_asks():
    for words in (r"\bpip install \.", r"without `?make|with make", r"step mode 's'", r"\[N, T"):
        assert re.search(words, TEXT, re.I), words
    for heading in ("When it helps, and when not", "Install", "Three lines", "What it costs"):
        assert f"## {heading}\n" in TEXT
