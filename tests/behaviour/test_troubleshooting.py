"""docs/troubleshooting.md quotes messages that the package has, word for word."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import sj_shortcut
from tests import pages

PAGE = pages.ROOT / "docs" / "troubleshooting.md"
HOLE = "…"  # what a message fills in, here and on the page
TABLES = PAGE.read_text("utf-8").split("## Warnings")[1].split("## Weights that do not fit")[0]
QUOTED = re.findall(r"^\| `([^`]+)` \|", TABLES, re.M)


def text_of(node: ast.AST) -> str:
    """A string literal or an f-string, with holes for what is filled in; empty for all else."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(text_of(part) or HOLE for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return text_of(left) + text_of(right)
    return ""


@cache
def messages() -> tuple[str, ...]:
    """All texts in the code of the package, without docstrings."""
    found = []
    for path in Path(sj_shortcut.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        nodes = [node for node in ast.walk(tree) if id(node) not in statements]
        found += [text for node in nodes if len(text := text_of(node)) > 15]
    return tuple(found)


@pytest.mark.parametrize("quoted", QUOTED)
def test_quoted_text_is_in_the_package(quoted: str) -> None:
    assert any(quoted.rstrip(HOLE) in message for message in messages()), quoted


def test_all_tables_were_read() -> None:
    rows = [row for row in TABLES.splitlines() if row.startswith("| `")]
    assert len(rows) == len(QUOTED) == len(set(QUOTED)) >= 40


def test_a_text_that_is_no_message_is_noticed() -> None:
    assert not any("there is no such message" in message for message in messages())


def test_every_warning_of_ours_is_on_the_page() -> None:
    """What is handed to ``warnings.warn`` with our category, wherever the text is made."""
    warned = {
        path.name
        for path in Path(sj_shortcut.__file__).parent.rglob("*.py")
        if "ShortcutWarning" in path.read_text("utf-8") and path.name not in ("__init__.py",)
    }
    section = PAGE.read_text("utf-8").split("## Warnings")[1].split("## Errors")[0]
    quoted = re.findall(r"^\| `([^`]+)` \|", section, re.M)
    homes = set()
    for path in Path(sj_shortcut.__file__).parent.rglob("*.py"):
        texts = [text_of(node) for node in ast.walk(ast.parse(path.read_text("utf-8")))]
        if any(q.rstrip(HOLE) in text for q in quoted for text in texts):
            homes.add(path.name)
    assert warned - homes <= {"warnings.py", "telling.py"}, warned - homes
