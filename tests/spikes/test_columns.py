import pandas as pd
import pytest

from sj_shortcut.spikes.columns import (
    COUNTS,
    LABELS,
    SHARES,
    check_frame,
    check_tags,
    make_frame,
    tags_of,
    why_missing,
)
from tests.refusals import refused


def row(**values: object) -> dict[str, object]:
    return {name: values.get(name, 0) for name in LABELS if name != "energy_pj"}


def test_a_frame_has_its_tags_first_and_its_columns_in_order() -> None:
    frame = make_frame([row(layer="a")], {"run": "vanilla"})
    assert list(frame.columns) == ["run", *(name for name in LABELS if name != "energy_pj")]
    assert tags_of(frame) == ["run"]
    assert list(make_frame([{**row(), "energy_pj": 1.0}], {}).columns) == list(LABELS)


def test_numbers_are_columns() -> None:
    assert set(COUNTS) | set(SHARES) < set(LABELS)
    assert why_missing("spikes").endswith("where the layer is none of neurons")
    assert why_missing("layer") == ""


def test_what_is_refused() -> None:
    check_tags(["run"])
    with pytest.raises(ValueError, match="the tag 'macs' has the name of a column"):
        check_tags(["run", "macs"])
    with refused(TypeError, "before must be a frame of spike_report, got list."):
        check_frame([], "before")
    with pytest.raises(ValueError, match="after has no column 'depth', .*: pass a frame of spike"):
        check_frame(pd.DataFrame({"layer": ["a"]}), "after")
    with refused(ValueError, "before is empty."):
        check_frame(make_frame([], {}), "before")
    twice = make_frame([row(layer="a"), row(layer="a")], {"seed": 1})
    with refused(ValueError, "before has several rows of one layer: it holds several runs. Choose "
                 "one of them by its tags ('seed')."):  # fmt: skip
        check_frame(twice, "before")
