"""The code of docs/recipes.md, section by section."""

import re
from pathlib import Path
from typing import Any

PATH = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"
TEXT = PATH.read_text()
SECTIONS = dict(re.findall(r"^#{1,3} (.+?)\n(.*?)(?=^#{1,3} |\Z)", TEXT, re.M | re.S))


def blocks(title: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", SECTIONS[title], re.M | re.S)


def run(title: str) -> dict[str, Any]:
    """Run what all recipes start from, then the blocks of one section; return all they defined."""
    namespace: dict[str, Any] = {"__name__": "recipes"}
    for code in (*blocks("Recipes"), *blocks(title)):
        line = TEXT[: TEXT.index(code)].count("\n")
        exec(compile("\n" * line + code, PATH, "exec"), namespace)
    return namespace
