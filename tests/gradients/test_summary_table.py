import pickle

import pandas as pd

from sj_shortcut import summarize
from tests.gradients.test_summary import frame


def shown() -> pd.DataFrame:
    norms = [0.0, *(10.0 ** (i - 29) for i in range(29))]
    frames = [
        frame(norms, coherence=0.01, coherence_floor=0.02).assign(run=run, epoch=epoch)
        for run in ("vanilla", "shortcuts")
        for epoch in (0, 10)
    ]
    return summarize(pd.concat(frames))


def test_a_print_shows_the_verdict_whole_in_80_columns() -> None:
    summary = shown()
    for text in (str(summary), repr(summary)):
        assert max(map(len, text.splitlines())) <= 80
        flat = " ".join(text.split())
        for row in summary.itertuples():
            assert row.verdict in flat
            assert row.incoherent_layers in flat
        assert flat.count("dead: 1 of 30 layers get no gradient") == 4
        assert "..." not in text and "run" in text and "effective_depth" in text


def test_a_notebook_shows_the_verdict_whole() -> None:
    summary = shown()
    page = summary._repr_html_()
    assert page.count(summary.verdict[0]) == 4
    assert "..." not in page
    with pd.option_context("display.notebook_repr_html", False):
        assert summary._repr_html_() is None


def test_many_runs_are_shown_as_pandas_shows_many_rows() -> None:
    summary = summarize(pd.concat([frame([1e-3, 1.0]).assign(step=step) for step in range(200)]))
    text = repr(summary)
    assert text.count("vanishing") == pd.get_option("display.min_rows")
    assert "200 rows" in text


def test_a_part_of_a_summary_is_shown_too() -> None:
    summary = shown()
    assert summary.verdict[1] in " ".join(repr(summary[summary.epoch == 10]).split())
    assert repr(summary[["run", "dead"]]) == repr(pd.DataFrame(summary[["run", "dead"]]))
    assert repr(summary[:0]).startswith("Empty DataFrame")
    assert isinstance(summary, pd.DataFrame)
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(summary)), summary)
