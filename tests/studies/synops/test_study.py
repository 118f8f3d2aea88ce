"""The study of where heads look: its plan, its table, its command."""

from dataclasses import asdict

import pandas as pd
import pytest

from analysis.ablation.plan import CORE
from analysis.synops.__main__ import RESULTS, main
from analysis.synops.figures import figure_pareto
from analysis.synops.plan import ELSEWHERE, MAIN, SEEDS, VARIANTS, Run, plan, quick_plan
from analysis.synops.report import against_vanilla, write_page


def test_every_setting_has_every_variant_with_every_seed() -> None:
    runs = plan()
    assert len(runs) == len({run.key for run in runs})
    every = len(CORE) * len(VARIANTS) * len(SEEDS)
    assert len(runs) == every + 4 * len(MAIN) * 2 + len(ELSEWHERE) * len(MAIN) * len(SEEDS)
    for run in runs:
        core = run.vanilla
        assert core.schedule == "none" and core.lr == run.lr and core.seed == run.seed
        assert (run.reads == "none") == (run.grid == 0)
    assert {run.lr for run in runs if run.reads != "none"} == {0.1}


def test_a_run_is_read_back_from_its_row() -> None:
    for run in plan()[::11]:
        assert Run.of_row({**asdict(run), "synops": 1.0}) == run


def a_row(run: Run, accuracy: float, synops: float) -> dict[str, object]:
    return {
        **asdict(run), "run": run.key, "test_accuracy": accuracy, "synops": synops,
        "silent": 0.25, "lowest_rate": 0.1,
    }  # fmt: skip


def test_the_table_compares_with_vanilla_of_the_same_setting() -> None:
    first = plan()[0]
    runs = [run for run in plan() if run.vanilla.key == first.vanilla.key or run.seed < 2]
    same = [run for run in runs if (run.data, run.depth) == ("digits", 30)]
    vanilla = [run for run in same if run.reads == "none" and not run.factor][:2]
    heads = [run for run in same if (run.reads, run.grid, run.factor) == ("currents", 2, 0)][:2]
    rows = [
        a_row(vanilla[0], 0.50, 100), a_row(vanilla[1], 0.60, 300),
        a_row(heads[0], 0.80, 100), a_row(heads[1], 0.90, 200),
    ]  # fmt: skip
    table = against_vanilla(pd.DataFrame(rows)).set_index("method")
    row = table.loc["heads on currents, 2 x 2"]
    assert row["points"] == pytest.approx(30) and row["synops"] == pytest.approx(0.75)
    # Two and two, of equal spread: t of 2 degrees of freedom, an error of the root of 50 / 2 * 2.
    assert row["high"] - row["points"] == pytest.approx(4.302653 * 50**0.5, rel=1e-5)
    assert table.loc["vanilla", "synops"] == 1 and table.loc["vanilla", "points"] == 0
    page = write_page(pd.DataFrame(rows), {}, len(plan()))
    assert "Unfinished: 4 of" in page and "| +30.0 (-0.4 to +60.4) | 0.75 |" in page


def test_the_quick_command_goes_on_where_it_was_stopped(tmp_path, capsys) -> None:
    main(["--quick", "--out", str(tmp_path)])
    runs = pd.read_csv(tmp_path / "runs.csv")
    assert set(runs["run"]) == {run.key for run in quick_plan()} and len(runs) == 4
    assert (runs["synops"] > 0).all() and (tmp_path / "pareto.png").stat().st_size > 10_000
    capsys.readouterr()
    main(["--quick", "--out", str(tmp_path)])
    assert "4 finished before, 0 to do" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--quick"])


def test_the_committed_page_is_that_of_the_committed_table() -> None:
    runs = pd.read_csv(RESULTS / "runs.csv")
    assert {Run.of_row(row) for row in runs.to_dict("records")} <= set(plan())
    layers = pd.read_csv(RESULTS / "layers.csv")
    assert set(layers["run"]) == set(runs["run"])
    page = (RESULTS / "RESULTS.md").read_text("utf-8")
    figures = {"pareto.png": " ".join((figure_pareto.__doc__ or "").split())}
    assert write_page(runs, figures, len(plan())) == page


NAMES = {
    "2 x 2 parts": "heads on spikes, 2 x 2",
    "2 x 2, `price=True`": "heads on spikes, 2 x 2, price",
    "4 x 4": "heads on spikes, 4 x 4",
    "4 x 4, `price=True`": "heads on spikes, 4 x 4, price",
    "all of the map, `grid=1`": "heads on spikes, 1 x 1",
    "2 x 2, `price=SpikePrice(model, factor=0.5)`": "heads on spikes, 2 x 2, price at 0.5",
    '2 x 2, `reads="currents"`': "heads on currents, 2 x 2",
}


def test_the_page_on_spikes_has_the_numbers_of_the_study() -> None:
    text = (RESULTS.parents[2] / "docs" / "spikes.md").read_text("utf-8")
    study = (RESULTS / "RESULTS.md").read_text("utf-8").split("## Against plain heads")[1]
    assert f"{len(pd.read_csv(RESULTS / 'runs.csv'))} trainings" in text
    for name, method in NAMES.items():
        row = next(line for line in study.splitlines() if line.startswith(f"| {method} |"))
        _, settings, points, _, _, synops, to_vanilla = row.strip("| ").split(" | ")
        assert f"| {name} | {settings} | {to_vanilla} | {synops} | {points} |" in text, row
