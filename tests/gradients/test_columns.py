"""The registry of columns, from one entry to a drawn axis, and which columns tell runs apart."""

import io
from collections.abc import Callable, Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import LogNorm, Normalize
from torch import Tensor

from sj_shortcut import (
    GradientRecorder,
    ShortcutLoss,
    gradient_flow,
    plot_gradient_flow,
    plot_gradient_heatmap,
    summarize,
)
from sj_shortcut.gradients import coherence, columns, spikes, weights
from sj_shortcut.gradients.columns import (
    COLUMNS,
    Column,
    check_tags,
    label_of,
    make_frame,
    names_of,
    run_columns,
    scale_of,
    why_missing,
)
from tests.gradients.tools import batches, criterion, train_step, wrapped
from tests.nets.small import Net

# A new measure: one entry and one function.


@pytest.fixture
def new_measures(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Column]]:
    """A throw-away measure of each kind, gone after the test."""
    entries = {
        "grad_max": Column(
            "grad_max", "weights", "largest gradient", "log", "no gradient arrived",
            per_loss=True, zero_unreached=True,
        ),
        "max_to_norm": Column("max_to_norm", "weights", "largest over norm"),
        "grad_positive": Column("grad_positive", "spikes", "share of gradients above 0"),
        "largest_norm": Column("largest_norm", "batches", "largest norm", "log", always=False),
    }  # fmt: skip
    for name, entry in entries.items():
        monkeypatch.setitem(COLUMNS, name, entry)
    monkeypatch.setattr(weights, "REDUCTIONS", {**weights.REDUCTIONS})
    monkeypatch.setattr(weights, "DERIVED", {**weights.DERIVED})
    monkeypatch.setattr(coherence, "OVER_BATCHES", {**coherence.OVER_BATCHES})
    measures = {**spikes.SPIKE_MEASURES}

    @weights.reduction
    def grad_max(layer: weights.LayerGradient) -> Tensor | None:
        return max((grad.abs().max() for grad in layer.grads), default=None)

    @weights.derived
    def max_to_norm(row: columns.Row) -> float:
        return row["grad_max"] / row["weight_grad_norm"]

    @spikes.spike_measure("gradient", spikes.share)
    def grad_positive(grad: Tensor, axes: tuple[int, ...] | None) -> Tensor:
        return torch.count_nonzero(grad > 0, axes)

    @coherence.over_batches
    def largest_norm(sums: coherence.GradientSums) -> float:
        return max(sums.norms)

    yield entries
    spikes.SPIKE_MEASURES.clear()
    spikes.SPIKE_MEASURES.update(measures)


def recorded(**options: object) -> pd.DataFrame:
    model = Net()
    with GradientRecorder(model, **options) as recorder:
        for epoch in (0, 1):
            train_step(model, recorder, run="a", epoch=epoch)
    return recorder.frame


def test_a_new_measure_is_recorded(new_measures: dict[str, Column]) -> None:
    model, frame = Net(), recorded()
    assert {"grad_max", "max_to_norm", "grad_positive"} <= set(frame.columns)
    assert "largest_norm" not in frame  # it takes several batches
    with GradientRecorder(model, scale=4.0) as recorder:
        train_step(model, recorder)
    row = recorder.frame.iloc[0]
    largest = model.layer1[0].weight.grad.abs().max().item()
    assert row.grad_max == pytest.approx(largest / 4)
    assert row.max_to_norm == pytest.approx(row.grad_max / row.weight_grad_norm)
    assert frame.grad_positive[frame.neuron != ""].between(0.01, 0.99).all()
    assert frame.grad_positive[frame.neuron == ""].isna().all()
    some = recorded(activity="grad_positive", per_step=True)
    assert some.grad_positive.notna().any() and some.alive.isna().all()


def test_a_new_measure_is_in_the_flow_of_gradients(new_measures: dict[str, Column]) -> None:
    model, many = wrapped(), batches(3)
    loss = ShortcutLoss(model, criterion)
    each = [gradient_flow(model, loss, batch) for batch in many]
    frame = gradient_flow(model, loss, many)
    assert set(new_measures) <= set(frame.columns)
    for name in ("grad_max", "max_to_norm", "grad_positive"):
        want = np.mean([one[name] for one in each], axis=0)
        assert frame[name].tolist() == pytest.approx(want.tolist(), nan_ok=True)
    assert frame.largest_norm.tolist() == pytest.approx(
        np.max([one.weight_grad_norm for one in each], axis=0).tolist()
    )
    parts = gradient_flow(model, loss, many, by_source=True)
    unreached = parts[(parts.source == "layer1.1") & (parts.layer == "fc")].iloc[0]
    assert unreached.grad_max == 0 and np.isnan(unreached.max_to_norm)


def test_a_new_measure_splits_no_run_and_is_no_tag(new_measures: dict[str, Column]) -> None:
    for frame in (recorded(), forget_tags(recorded())):
        assert summarize(frame)[["run", "epoch"]].to_numpy().tolist() == [["a", 0], ["a", 1]]
    for name in new_measures:
        with pytest.raises(ValueError, match=f"the tag '{name}' has the name of a column"):
            gradient_flow(Net(), criterion, batches(1), **{name: 1})


def test_a_new_measure_has_its_label_and_scale_in_plots(new_measures: dict[str, Column]) -> None:
    frame = recorded()
    for name in ("grad_max", "max_to_norm", "grad_positive"):
        entry = COLUMNS[name]
        ax = plot_gradient_flow(frame, y=name, hue="epoch")
        assert (ax.get_ylabel(), ax.get_yscale()) == (entry.label, entry.scale)
        ax = plot_gradient_heatmap(frame, column=name)
        norm = ax.collections[0].norm
        assert type(norm) is (LogNorm if entry.scale == "log" else Normalize)
        assert ax.collections[0].colorbar.ax.get_ylabel() == entry.label
    missing = frame.assign(grad_max=np.nan)
    for draw in (plot_gradient_flow, plot_gradient_heatmap):
        which = "y" if draw is plot_gradient_flow else "column"
        with pytest.raises(ValueError) as error:
            draw(missing, **{which: "grad_max"})
        assert str(error.value) == (
            "no row of the frame has a number in 'grad_max', which is missing where no gradient "
            "arrived."
        )
    plt.close("all")


# The columns there are.


def test_every_measured_column_is_filled() -> None:
    model = wrapped()
    loss = ShortcutLoss(model, criterion)
    frame = gradient_flow(model, loss, batches(2), by_source=True, per_step=True, run="a")
    assert frame.columns.tolist() == ["run", *(n for n in COLUMNS if n not in ("step", "rank"))]
    assert not frame.isna().all().any()
    assert set(recorded(all_ranks=True)) == {"run", "epoch"} | {
        name for name, column in COLUMNS.items() if column.always or name in ("step", "rank")
    }


def test_every_function_that_measures_has_a_column_of_its_kind() -> None:
    assert set(weights.REDUCTIONS) - {"nonzeros"} | set(weights.DERIVED) == set(names_of("weights"))
    assert tuple(spikes.SPIKE_MEASURES) == names_of("spikes")
    assert set(coherence.OVER_BATCHES) == set(names_of("batches"))


def test_every_column_is_documented() -> None:
    text = f"{GradientRecorder.__doc__} {gradient_flow.__doc__}"
    assert [name for name in COLUMNS if f"``{name}``" not in text] == []


def test_every_measured_column_has_a_label_and_says_where_it_is_missing() -> None:
    for name, column in COLUMNS.items():
        assert column.name == name
        if column.measured:
            assert column.label and label_of(name) == column.label
            assert scale_of(name, "log") == scale_of(name, "linear") == column.scale
            assert (
                why_missing(name).startswith(", which is missing where ") or name == "weight_norm"
            )


def test_columns_of_others() -> None:
    assert label_of("test_accuracy") == "test accuracy"
    assert (scale_of("mine", "log"), scale_of("mine", "linear")) == ("log", "linear")
    assert why_missing("mine") == why_missing("layer") == ""


def test_tags_must_not_have_the_name_of_a_column() -> None:
    check_tags({"run": 1, "epoch": 2})
    with pytest.raises(ValueError) as error:
        check_tags({"run": 1, "share": 2})
    assert str(error.value) == (
        "the tag 'share' has the name of a column that is measured: call it another name."
    )


# Runs.


def measured(run: str, norms: tuple[float, ...] = (1e-3, 1e-2, 1e-1)) -> pd.DataFrame:
    """A frame that knows its tags, as those of a measurement do."""
    return make_frame(
        [
            {"run": run, "layer": f"conv{i}", "depth": i + 1, "weight_grad_norm": norm}
            for i, norm in enumerate(norms)
        ],
        ["run"],
    )


def forget_tags(frame: pd.DataFrame) -> pd.DataFrame:
    """What a CSV file does."""
    return pd.read_csv(io.StringIO(frame.to_csv(index=False)))


def keep(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


@pytest.mark.parametrize("kept", [keep, forget_tags])
def test_a_computed_column_does_not_split_a_run(kept: Callable[..., pd.DataFrame]) -> None:
    frame = kept(measured("a"))
    frame["relative"] = frame.weight_grad_norm / frame.weight_grad_norm.max()
    row = summarize(frame).iloc[0]
    assert len(summarize(frame)) == 1
    assert (row.run, row.layers) == ("a", 3)
    assert "relative" not in row


@pytest.mark.parametrize("kept", [keep, forget_tags])
@pytest.mark.parametrize("tags", [["run"], ["run", "epoch"]])
def test_runs_put_together_stay_apart(kept: Callable[..., pd.DataFrame], tags: list[str]) -> None:
    many = [
        measured(run, (norm, 1.0)).assign(epoch=epoch) if "epoch" in tags else measured(run)
        for run in "abc"
        for epoch, norm in ((0, 0.1), (1, 0.2))[: len(tags)]
    ]
    frame = kept(pd.concat(many))
    frame["relative"] = frame.weight_grad_norm * np.arange(len(frame))
    frame["large"] = frame.weight_grad_norm >= frame.weight_grad_norm.quantile(0.4)
    rows = summarize(frame)
    assert len(rows) == len(many)
    assert rows.columns[: len(tags) + 1].tolist() == [*tags, "layers"]


def test_runs_of_other_models_stay_apart() -> None:
    other = measured("b").replace({"layer": {"conv0": "stem", "conv1": "body", "conv2": "fc"}})
    both = pd.concat([measured("a"), other])
    for rows in (both, forget_tags(both)):
        assert summarize(rows).run.tolist() == ["a", "b"]


def test_time_steps_and_sources_are_no_runs() -> None:
    frame = pd.concat([measured("a").assign(source=s, t=t) for s in ("main", "x") for t in (0, 1)])
    frame["relative"] = range(len(frame))
    assert summarize(frame)[["run", "source"]].to_numpy().tolist() == [["a", "main"], ["a", "x"]]


@pytest.mark.parametrize("kept", [keep, forget_tags])
def test_tags_are_told_in_the_order_of_the_frame(kept: Callable[..., pd.DataFrame]) -> None:
    frame = kept(pd.concat([recorded(), recorded().assign(run="b")]))
    frame["log"] = np.log10(frame.weight_grad_norm)
    assert run_columns(frame) == ["run", "epoch", "step"]


def test_what_a_frame_knows_of_its_tags_is_not_shared() -> None:
    frame = measured("a")
    twin = frame.copy()
    twin.attrs["sj_shortcut.tags"].append("depth")
    assert run_columns(frame) == ["run"]
    assert run_columns(frame.rename(columns={"run": "name"})) == ["name"]


def test_repetitions_without_a_tag_are_one_run() -> None:
    assert len(summarize(pd.concat([measured("a")] * 3))) == 1


def test_a_network_of_one_layer() -> None:
    frames = [measured(run, (norm,)) for run, norm in (("a", 1.0), ("b", 2.0))]
    assert summarize(forget_tags(pd.concat(frames))).run.tolist() == ["a", "b"]
