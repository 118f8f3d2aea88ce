"""Pages of the documentation: their code runs, their links lead somewhere, their commands exist."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

import sj_shortcut
from tests import pages

# Their blocks are not one program from top to bottom: test_recipes.py, test_paper_page.py and
# test_many_gpus.py.
RUN_ELSEWHERE = {
    pages.ROOT / "docs" / name for name in ("recipes.md", "paper.md", "tutorials/many_gpus.md")
}
WITH_CODE = [
    page
    for page in pages.PAGES
    if pages.has_code(page) and page not in RUN_ELSEWHERE and page != pages.README
]
LANGUAGES = {"python", "diff", "text", "output", "sh", "bat", "bash", "bibtex"}
DIRECTIVES = {"{toctree}", "{eval-rst}"}


def name_of(page: Path) -> str:
    return page.relative_to(pages.ROOT).as_posix()


def slugs_of(page: Path) -> set[str]:
    """The anchors that headings have, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    titles = [title.strip().lower() for title in re.findall(r"^#{1,6} (.+)$", text, re.M)]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
@pytest.mark.filterwarnings("error::sj_shortcut.ShortcutWarning")
def test_code_runs_from_top_to_bottom(page, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    pages.run(page, lambda: capsys.readouterr().out)
    plt.close("all")


def test_pages_with_code_were_found():
    names = {name_of(page) for page in WITH_CODE}
    assert {"docs/quickstart.md", "docs/tutorials/gradients.md", "docs/schedules.md"} < names
    assert len(names) >= 12
    assert all(page.is_file() for page in RUN_ELSEWHERE)


@pytest.mark.parametrize("page", pages.PAGES, ids=name_of)
def test_blocks_are_of_a_kind_that_is_checked(page):
    found = {block.language for block in pages.blocks_of(page)}
    assert found <= LANGUAGES | DIRECTIVES


@pytest.mark.parametrize("page", pages.LINKED, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        if anchor:
            assert anchor in slugs_of(target), link


def test_toctrees_name_every_page():
    """Sphinx says so as well; this says so without it."""
    named = set()
    for index in (pages.ROOT / "docs" / "index.md", pages.ROOT / "docs" / "studies.md"):
        for block in pages.blocks_of(index):
            if block.language == "{toctree}":
                for line in block.code.splitlines():
                    entry = re.sub(r"^.*<(.+)>$", r"\1", line)
                    if entry and not entry.startswith(":"):
                        target = (index.parent / f"{entry}.md").resolve()
                        assert target.is_file(), entry
                        named.add(target)
    assert named == {*pages.LINKED} - {pages.README, pages.ROOT / "docs" / "index.md"}


@pytest.mark.parametrize("page", pages.PAGES, ids=name_of)
def test_commands_exist(page):
    text = page.read_text("utf-8")
    targets = re.findall(r"^([\w-]+):", (pages.ROOT / "Makefile").read_text("utf-8"), re.M)
    for command in re.findall(r"(?:`|^)make ([a-z]\w*)", text, re.M):
        assert command in targets, command
    for script in re.findall(r"\b(?:examples|analysis)/\w+\.py", text):
        assert (pages.ROOT / script).is_file(), script
    for study in re.findall(r"\bpython\s-m\sanalysis\.(\w+)", text):
        assert (pages.ROOT / "analysis" / study / "__main__.py").is_file(), study


def test_commands_are_looked_for():
    text = pages.README.read_text("utf-8")
    assert re.findall(r"(?:`|^)make ([a-z]\w*)", text, re.M)
    assert re.findall(r"\bpython\s-m\sanalysis\.(\w+)", text)


def test_the_api_page_lists_every_public_name():
    text = (pages.ROOT / "docs" / "api.md").read_text("utf-8")
    listed = re.findall(r"^\.\. auto(?:function|class|exception):: (\w+)$", text, re.M)
    # The callback needs Lightning, and is imported by its own path.
    assert sorted(listed) == sorted([*sj_shortcut.__all__, "ShortcutCallback"])


def test_nothing_is_fetched_from_elsewhere_by_the_site():
    """Links to other places are for the reader to follow; images and scripts come along."""
    for page in pages.LINKED:
        assert not re.search(r"!\[[^\]]*\]\(https?:|<(img|script|link)\b", page.read_text("utf-8"))
    conf = (pages.ROOT / "docs" / "conf.py").read_text("utf-8")
    assert "http://" not in conf and "https://" not in conf
