"""The code on pages of the documentation, run as a reader would run it: from top to bottom."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
# All that is shown to readers and links to each other.
LINKED = [
    *PAGES,
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md")),
    ROOT / "analysis" / "README.md",
    *sorted((ROOT / "analysis").glob("*/results/RESULTS.md")),
]


NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]\d+)?")


def environment() -> dict[str, str]:
    """What a process of its own runs in: with the package of this checkout, in any folder."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line on the page before it."""

    language: str
    code: str
    line: int


def blocks_of(path: Path) -> Iterator[Block]:
    text = path.read_text("utf-8")
    for match in re.finditer(r"^```(\S+)\n(.*?)^```$", text, re.M | re.S):
        yield Block(match[1], match[2], text[: match.start(2)].count("\n"))


def has_code(path: Path) -> bool:
    return any(block.language in ("python", "diff") for block in blocks_of(path))


def sides(diff: str) -> tuple[str, str]:
    """The code before a diff, and the code after it; both with as many lines as the diff."""
    marks = {line[:1] for line in diff.splitlines()}
    assert marks <= {"", " ", "+", "-"}, marks
    before = re.sub(r"^\+.*$", "", diff, flags=re.M)
    after = re.sub(r"^-.*$", "", diff, flags=re.M)
    return re.sub(r"^[ -]", "", before, flags=re.M), re.sub(r"^[ +]", "", after, flags=re.M)


def run(path: Path, printed: Callable[[], str]) -> dict[str, Any]:
    """Run the blocks of a page one after another; what is shown as printed has to be printed.

    Args:
        path: The page.
        printed: Gives what was printed since the last call.

    Returns:
        All that the blocks defined.
    """
    namespace: dict[str, Any] = {"__name__": path.stem}
    output = ""
    for language, code, line in blocks_of(path):
        if language == "text":
            assert [row.rstrip() for row in output.splitlines()] == code.splitlines()
            continue
        if language == "output":  # of a training: the numbers are those of one machine
            assert NUMBER.sub("0", output).split() == NUMBER.sub("0", code).split()
            continue
        if language == "diff":
            before, code = sides(code)
            exec(compile("\n" * line + before, path, "exec"), dict(namespace))
        elif language != "python":
            continue
        exec(compile("\n" * line + code, path, "exec"), namespace)
        output = printed()
    return namespace
