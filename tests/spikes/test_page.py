"""docs/spikes.md: its code runs, and the counts are those of what it says."""

import re
from pathlib import Path

import pytest

from sj_shortcut.price.hooks import has_price

PATH = Path(__file__).resolve().parents[2] / "docs" / "spikes.md"
TEXT = PATH.read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)


@pytest.mark.filterwarnings("error::sj_shortcut.ShortcutWarning")
def test_the_blocks_run_one_after_the_other(capsys) -> None:
    names: dict = {"__name__": "page"}
    for code in BLOCKS:
        line = TEXT[: TEXT.index(code)].count("\n")
        exec(compile("\n" * line + code, PATH, "exec"), names)
    said = capsys.readouterr().out
    assert "(total)" in said and "ISSCC 2014" in said and "µJ a sample" in said
    report, after = names["report"], names["after"]
    assert report.layer.tolist() == after.layer.tolist() and (report.samples == 32).all()
    assert names["price"].targets and not has_price(names["model"])
    assert names["cheaper"].synops.sum() < after.synops.sum()
    assert report.macs.sum() == 4 * 8 * 16 * 16 * 3 * 9
