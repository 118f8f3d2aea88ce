import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S)


@pytest.mark.filterwarnings("error:.*shortcut")
def test_python_blocks_run_one_after_the_other_and_print_what_is_shown(capsys):
    namespace = {"__name__": "readme"}
    shown = [(language, code) for language, code in BLOCKS if language in ("python", "text")]
    assert sum(language == "python" for language, _ in shown) >= 5
    printed = ""
    for language, code in shown:
        if language == "text":
            assert [line.rstrip() for line in printed.splitlines()] == code.splitlines()
            continue
        line = TEXT[: TEXT.index(code)].count("\n")
        exec(compile("\n" * line + code, ROOT / "README.md", "exec"), namespace)
        printed = capsys.readouterr().out


def test_links_to_files_lead_somewhere():
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", TEXT)
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link


def test_commands_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    for command in re.findall(r"\bmake (\w+)", TEXT):
        assert command in targets, command
    for script in re.findall(r"\b(?:examples|analysis)/\w+\.py", TEXT):
        assert (ROOT / script).is_file(), script
    studies = re.findall(r"\bpython\s-m\sanalysis\.(\w+)", TEXT)
    assert studies
    for study in studies:
        assert (ROOT / "analysis" / study / "__main__.py").is_file(), study
