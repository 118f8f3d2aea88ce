import math

import pandas as pd
import pytest

from sj_shortcut import summarize
from tests.refusals import refused


def frame(norms: list[float], **columns: object) -> pd.DataFrame:
    names = [f"conv{i}" for i in range(len(norms))]
    return pd.DataFrame(
        {
            "run": "a",
            "layer": names,
            "depth": range(1, len(norms) + 1),
            "weight_grad_norm": norms,
            **columns,
        }
    )


def test_columns() -> None:
    row = summarize(frame([1e-6, 1e-5, 1e-4, 1e-3, 1e-2])).iloc[0]
    assert row.run == "a" and row.layers == 5
    assert row.decades_per_layer == pytest.approx(1)
    assert row.first_to_last == pytest.approx(1e-4)
    assert row.effective_depth == 2  # the last, and the one at a tenth; 1 % is not above 1 %
    assert (row.dead, row.dead_layers) == (0, "")
    assert "coherence" not in row
    assert row.verdict == (
        "vanishing: the first layer gets 0.01 % of the last, a factor of 10 per layer"
    )


@pytest.mark.parametrize(
    ("norms", "verdict"),
    [
        ([1.0, 1.0, 2.0], "steady: the first layer gets 0.5 times the last"),
        ([1e3, 10.0, 1.0], "exploding: the first layer gets 1e+03 times the last"),
        ([0.5], ""),
        (
            [1.0, 0.0, 2.0],
            "dead: 1 of 3 layers get no gradient, 'conv1' among them; "
            "steady: the first layer gets 0.5 times the last",
        ),
        (
            [0.0, math.nan, 2.0],
            "dead: 2 of 3 layers get no gradient, 'conv0' among them; "
            "vanishing: the first layer gets 0 % of the last",
        ),
    ],
)
def test_verdicts(norms: list[float], verdict: str) -> None:
    assert summarize(frame(norms)).verdict[0] == verdict


def test_gradients_that_are_not_finite() -> None:
    broken = frame([math.nan, math.inf, 1.0], status=["nonfinite", "nonfinite", "ok"])
    row = summarize(broken).iloc[0]
    assert row.dead == 0
    assert row.verdict == (
        "broken: the gradient is not finite in 2 of 3 layers, 'conv0' among them"
    )


def test_frozen_layers_do_not_count() -> None:
    row = summarize(frame([math.nan, 1.0, 1.0], status=["frozen", "ok", "ok"])).iloc[0]
    assert (row.layers, row.dead, row.effective_depth) == (2, 0, 2)


def test_coherence() -> None:
    measured = frame([1.0] * 4, coherence=[0.5, 0.01, -0.2, math.nan], coherence_floor=0.02)
    row = summarize(measured).iloc[0]
    assert row.coherence == pytest.approx(0.01)
    assert (row.incoherent, row.incoherent_layers) == (2, "conv1 conv2")
    assert row.verdict.endswith("shattered: in 2 of 4 layers batches agree no better than random")


def test_runs_are_told_apart_by_every_tag() -> None:
    rows = pd.concat(
        [
            frame([1.0, 2.0]).assign(run=run, epoch=epoch, step=epoch)
            for run in "ab"
            for epoch in (0, 1)
        ]
    )
    assert summarize(rows)[["run", "epoch"]].to_numpy().tolist() == [
        ["a", 0], ["a", 1], ["b", 0], ["b", 1]
    ]  # fmt: skip
    by_run = summarize(rows, by="run")
    assert by_run.columns[0] == "run" and "epoch" not in by_run
    assert by_run.run.tolist() == ["a", "b"]
    assert len(summarize(rows, by=[])) == 1
    assert len(summarize(rows.drop(columns=["run", "epoch", "step"]))) == 1


def test_norms_are_averaged_geometrically() -> None:
    rows = pd.concat([frame([1e-4, 1.0]).assign(step=0), frame([1e-2, 1.0]).assign(step=1)])
    assert summarize(rows, by="run").first_to_last[0] == pytest.approx(1e-3)


def test_time_steps_count_once() -> None:
    rows = pd.concat([frame([1e-4, 1.0]).assign(t=t) for t in range(3)])
    row = summarize(rows).iloc[0]
    assert (row.layers, row.first_to_last) == (2, pytest.approx(1e-4))


def test_a_head_is_not_blamed_for_what_it_cannot_reach() -> None:
    rows = pd.concat(
        [
            frame([1.0, 1.0, 1.0], status="ok").assign(source="main"),
            frame([1.0, 0.0, 0.0], status=["ok", "none", "none"]).assign(source="conv0"),
        ]
    )
    summary = summarize(rows).set_index("source")
    assert summary.layers.to_dict() == {"main": 3, "conv0": 1}
    assert (summary.dead == 0).all()


def test_missing_values_among_tags() -> None:
    rows = pd.concat([frame([1.0, 1.0]).assign(note=None), frame([1.0, 1.0]).assign(note="x")])
    assert len(summarize(rows)) == 2


def test_errors() -> None:
    with refused(TypeError, "frame must be a pandas DataFrame, got list."):
        summarize([])
    advice = "pass what GradientRecorder or gradient_flow gave."
    with refused(ValueError, f"frame has no column 'depth': {advice}"):
        summarize(frame([1.0]).drop(columns="depth"))
    with refused(ValueError, f"frame has no column 'method': {advice}"):
        summarize(frame([1.0]), by="method")
    with refused(ValueError, "frame is empty: nothing was measured."):
        summarize(frame([]))
