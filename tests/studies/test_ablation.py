"""The ablation study: what it runs, keeps, repeats, and concludes."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

ANALYSIS = Path(__file__).resolve().parents[2] / "analysis"
RESULTS = ANALYSIS / "results" / "ablation"
TABLES = ("history", "heads", "gradients", "firing", "runs")


def study(*flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ANALYSIS / "ablation.py", *flags]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    done = study("--quick", "--out", folder)
    assert done.returncode == 0, done.stderr
    assert "8 runs: 0 finished before, 8 to do" in done.stdout
    assert "100%" in done.stderr  # the progress bar
    return folder


@pytest.fixture(autouse=True)
def _analysis_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ANALYSIS))


@pytest.fixture
def vanilla():
    from ablation_plan import setting

    return setting("digits", "plain", 6, "atan")


def read(folder: Path) -> dict[str, pd.DataFrame]:
    return {name: pd.read_csv(folder / f"{name}.csv") for name in TABLES}


def test_tables_are_tidy(quick) -> None:
    tables = read(quick)
    runs = tables["runs"]
    assert len(runs) == 8 and not runs["run"].duplicated().any()
    for name in ("history", "heads", "gradients", "firing"):
        assert set(tables[name]["run"]) <= set(runs["run"])
    assert not tables["history"].duplicated(["run", "epoch"]).any()
    assert not tables["heads"].duplicated(["run", "epoch", "head"]).any()
    assert not tables["gradients"].duplicated(["run", "epoch", "place"]).any()
    wrapped = runs.loc[runs["at"] != "none", "run"]
    assert set(tables["heads"]["run"]) == set(wrapped)
    assert runs["firing_rate"].between(0, 1, inclusive="neither").all()
    layers = tables["firing"].groupby("run")["layer"]
    assert layers.apply(list).map(lambda found: found == [1, 2, 3, 4, 5, 6]).all()


def test_methods_of_a_seed_start_from_the_same_weights(quick) -> None:
    tables = read(quick)
    first = tables["gradients"].query("epoch == 0 and place == 'last'")
    norms = first.merge(tables["runs"][["run", "seed", "at"]], on="run")
    by_seed = norms.groupby("seed")["weight_grad_norm"].nunique()
    assert by_seed.eq(1).all() and norms["weight_grad_norm"].nunique() == len(by_seed)
    firing = tables["firing"].merge(tables["runs"][["run", "seed"]], on="run")
    untrained = firing.groupby(["seed", "layer"])["untrained"]
    assert untrained.nunique().eq(1).all() and firing["untrained"].nunique() > len(by_seed)
    assert (firing["firing_rate"] - firing["untrained"]).abs().max() > 0.01


def test_measuring_untrained_firing_changes_nothing(vanilla) -> None:
    from ablation_run import Training, firing_rates_in_training

    training = Training(replace(vanilla, epochs=1))
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    rates = firing_rates_in_training(training.model, [x for x, _ in training.probes])
    assert rates == training.untrained and all(0 < rate < 1 for rate in rates)
    for name, value in training.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_run_is_repeated_from_its_row(quick) -> None:
    run = read(quick)["runs"].query("schedule == 'ratio-each'")["run"].iloc[0]
    done = study("--out", quick, "--repeat", run)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        before, now = line.split(": ")[1].removesuffix(" now").split(" in the table, ")
        assert before == now, line
    assert "no run 'abc'" in study("--out", quick, "--repeat", "abc").stderr


def test_a_stopped_study_goes_on_and_gives_the_same(quick, tmp_path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(quick, folder)
    whole = read(quick)
    whole["runs"].iloc[:-1].to_csv(folder / "runs.csv", index=False)
    assert "7 finished before, 1 to do" in study("--quick", "--out", folder).stdout
    for name, table in read(folder).items():
        times = ["seconds"] if "seconds" in table else []
        pd.testing.assert_frame_equal(
            table.drop(columns=times), whole[name].drop(columns=times), rtol=1e-3
        )


def test_hours_end_a_study_early(tmp_path) -> None:
    from ablation import main

    main(["--quick", "--out", str(tmp_path), "--hours", "0", "--workers", "1"])
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 1
    assert "1 runs are in the tables, 7 of those planned are not" in (
        tmp_path / "RESULTS.md"
    ).read_text().replace("\n", " ")


def test_page_and_figures_belong_together(quick) -> None:
    page = (quick / "RESULTS.md").read_text()
    figures = {path.name for path in quick.glob("*.png")}
    assert {"gain.png", "rules.png", "time.png", "firing.png"} <= figures
    assert all(f"({name})" in page for name in figures)
    assert "All planned runs are finished." in page
    assert "| digits plain 6 atan |" in page


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--quick"], "--quick needs --out FOLDER"),
        (["--workers", "0"], "--workers must be at least 1"),
    ],
)
def test_bad_flags(flags, message, capsys) -> None:
    from ablation import main

    with pytest.raises(SystemExit) as exit_info:
        main(flags)
    assert exit_info.value.code == 2 and message in capsys.readouterr().err


def test_plan_is_complete() -> None:
    from ablation_plan import plan

    runs = plan()
    assert len({run.key for run in runs}) == len(runs)
    assert {run.data for run in runs} == {"digits", "fashion", "nmnist", "cifar10"}
    assert {run.net for run in runs} == {"plain", "resnet", "sew"}
    assert {6, 96} <= {run.depth for run in runs} and {2, 4, 10} <= {run.T for run in runs}
    assert {run.surrogate for run in runs} >= {"atan", "sigmoid", "rect"}
    assert {run.combine for run in runs} == {"loss", "logits"} and any(r.per_step for r in runs)
    # Whatever is compared with vanilla has a vanilla run of the same seed and learning rate.
    plain = {"at": "none", "head": "none", "combine": "loss", "schedule": "none", "start": 1.0}
    assert {replace(run, per_step=False, **plain) for run in runs} <= set(runs)


def test_validation_data_are_no_training_data(vanilla) -> None:
    from ablation_run import Training

    training = Training(vanilla)
    parts = [training.x, training.val_x, training.test_x]
    assert sum(map(len, parts)) == 1797
    share = torch.bincount(training.val_y) / len(training.val_y)
    assert (share - torch.bincount(training.y) / len(training.y)).abs().max() < 0.01


@pytest.mark.parametrize(("net", "depth", "weights"), [
    ("plain", 6, 7), ("plain", 96, 97), ("resnet", 20, 22), ("sew", 20, 22),
])  # fmt: skip
def test_networks_are_as_deep_as_they_say(net, depth, weights) -> None:
    from study_nets import build

    model = build(net, depth, "rect", in_channels=2, scale=0.5)
    found = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(found) == weights
    assert model(torch.rand(2, 3, 2, 8, 8)).shape == (2, 3, 10)


def test_spikes_are_counted() -> None:
    from ablation_run import spikes_counted
    from study_nets import lif

    model = nn.Sequential(lif("atan"), nn.Hardtanh(0, 0.5), lif("atan"))
    with spikes_counted(model) as counted:
        model(torch.tensor([2.0, 0.0, 3.0, 0.1]))
    assert counted == [{"spikes": 2, "places": 4}, {"spikes": 0, "places": 4}]
    assert not any(layer._forward_hooks for layer in model)


# Rules: what each makes of m = 1 for the output, and 2, 4 and 0.5 for the heads.

DECIDED = {
    "ratio-each": [0.5, 0.25, 1.0],
    "ratio-squared": [0.25, 0.0625, 1.0],
    "ratio-all": [1 / (6.5 / 3)] * 3,
    "ratio-best": [1.0] * 3,
    "remaining": [1.0] * 3,
    "overtaken": [0.5, 0.5, 1.0],
    "race": [1.0] * 3,
}


@pytest.mark.parametrize("name", DECIDED)
def test_rules(name) -> None:
    from ablation_rules import RULES

    schedule = RULES[name](1.0)
    losses = {"main": 1.0, "a": 2.0, "b": 4.0, "c": 0.5}
    schedule.observe({head: torch.tensor(loss) for head, loss in losses.items()})
    schedule.step()
    assert [schedule.coefficient_of(head) for head in "abc"] == pytest.approx(DECIDED[name])


def test_what_is_left_of_the_loss() -> None:
    from ablation_rules import Remaining

    schedule = Remaining()
    for main in (2.0, 1.0, 0.5):
        schedule.observe({"main": torch.tensor(main), "a": torch.tensor(1.0)})
        schedule.step()
    assert [schedule(epoch) for epoch in range(4)] == [1, 1, 0.5, 0.25]


def test_who_falls_faster() -> None:
    from ablation_rules import Race

    schedule = Race()
    for main, head in ((2.0, 2.0), (1.0, 1.5), (0.5, 1.0), (0.5, 0.9), (0.5, 0.8), (0.5, 0.7)):
        schedule.observe({"main": torch.tensor(main), "a": torch.tensor(head)})
        schedule.step()
    assert [schedule(epoch) for epoch in range(7)] == [1, 1, 0.5, 0.25, 0.5, 1, 1]


@pytest.mark.parametrize("name", ["gradient-norm", "coherence"])
def test_rules_that_look_at_gradients_leave_the_model_alone(name, vanilla) -> None:
    from ablation_run import Training

    training = Training(replace(vanilla, at="every:3", head="grid4", schedule=name))
    before = {key: value.clone() for key, value in training.model.state_dict().items()}
    training.schedule.probe(training.model, training.probes)
    assert 0 <= training.schedule.probed <= 1
    after = training.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_clipping_bounds_the_gradient_and_keeps_the_keys_of_other_runs(vanilla) -> None:
    from ablation_run import Training

    assert vanilla.key == "543c3d5c"
    clipped = replace(vanilla, clip=0.01, epochs=1)
    assert clipped.key != replace(clipped, clip=0.0).key
    norms = {}
    for run in (clipped, replace(clipped, clip=0.0)):
        training = Training(run)
        training.one_epoch(1)
        parameters = training.model.parameters()
        norms[run.clip] = float(nn.utils.clip_grad_norm_(parameters, float("inf")))
    assert norms[0.01] <= 0.01001 < norms[0.0]


# Statistics.


def table(vanilla, *rows: dict) -> pd.DataFrame:
    from ablation_statistics import labelled

    usual = {"val_accuracy": 0.5, "test_accuracy": 0.5, "spikes": 1.0, "seconds": 10.0}
    made = []
    for row in rows:
        settings = {key: value for key, value in row.items() if key in vars(vanilla)}
        run = replace(vanilla, **settings)
        made.append({**vars(run), "run": run.key, **usual, **row})
    return labelled(pd.DataFrame(made))


HEADS = {"at": "auto", "head": "grid2", "schedule": "hold-linear"}


def test_differences_are_paired_by_seed(vanilla) -> None:
    from ablation_statistics import differences

    base, other = np.array([0.1, 0.5, 0.9]), np.array([0.3, 0.6, 0.95])
    runs = table(
        vanilla,
        *({"seed": i, "test_accuracy": value} for i, value in enumerate(base)),
        *({"seed": i, "test_accuracy": value, **HEADS} for i, value in enumerate(other)),
        {"seed": 7, "test_accuracy": 0.0, **HEADS},  # without a partner
    )
    (row,) = differences(runs, ["hold-linear"]).to_dict("records")
    expected = stats.ttest_rel(other, base).confidence_interval(0.95)
    assert row["n"] == 3 and row["difference"] == pytest.approx((other - base).mean())
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))


def test_a_single_pair_has_no_interval(vanilla) -> None:
    from ablation_statistics import differences

    runs = table(vanilla, {"test_accuracy": 0.2}, {"test_accuracy": 0.3, **HEADS})
    (row,) = differences(runs, ["hold-linear"]).to_dict("records")
    assert row["difference"] == pytest.approx(0.1) and np.isnan(row["low"])


def test_vanilla_is_given_its_best_learning_rate(vanilla) -> None:
    from ablation_statistics import best_rates, differences

    runs = table(
        vanilla,
        {"val_accuracy": 0.4, "test_accuracy": 0.9},
        {"val_accuracy": 0.6, "test_accuracy": 0.7, "lr": 0.3},
        {"val_accuracy": 0.8, "test_accuracy": 0.1, "epochs": 18},  # longer: not a rate's merit
        {"test_accuracy": 0.75, **HEADS},
    )
    assert best_rates(runs).to_dict() == {"digits plain 6 atan": 0.3}
    assert differences(runs, ["hold-linear"], best_rate=True)["base"].tolist() == [0.7]
    assert differences(runs, ["hold-linear"])["base"].tolist() == [0.9]
    assert differences(runs, ["hold-linear"], longer=True)["base"].tolist() == [0.1]


def test_shortcuts_can_have_theirs(vanilla) -> None:
    from ablation_statistics import differences

    runs = table(
        vanilla,
        {"test_accuracy": 0.5},
        {"val_accuracy": 0.4, "test_accuracy": 0.9, **HEADS},
        {"val_accuracy": 0.6, "test_accuracy": 0.7, "lr": 0.3, **HEADS},
        {"depth": 12},
        {"depth": 12, **HEADS},  # at one rate only
    )
    own = differences(runs, ["hold-linear"], best_rate=True, own_rate=True)
    assert own["mean"].tolist() == [0.7]
    assert differences(runs, ["hold-linear"], best_rate=True)["mean"].tolist() == [0.9, 0.5]


def test_learning_rates_are_compared_on_the_seeds_they_share(vanilla) -> None:
    from ablation_statistics import best_rates

    runs = table(
        vanilla,
        {"val_accuracy": 0.4},
        {"val_accuracy": 0.5, "lr": 0.3},
        {"val_accuracy": 0.9, "seed": 1},  # an easy seed, of which 0.3 is not finished
    )
    assert best_rates(runs).to_dict() == {"digits plain 6 atan": 0.3}


def test_a_rate_of_one_seed_does_not_decide_among_those_of_three(vanilla) -> None:
    from ablation_statistics import best_rates

    runs = table(
        vanilla,
        *(
            {"seed": seed, "val_accuracy": accuracy}
            for seed, accuracy in enumerate((0.4, 0.8, 0.8))
        ),
        *({"seed": seed, "lr": 0.3, "val_accuracy": 0.5} for seed in range(3)),
        {"lr": 0.01, "val_accuracy": 0.9},
    )
    assert best_rates(runs).to_dict() == {"digits plain 6 atan": 0.1}


def test_every_method_of_the_plan_has_all_seeds() -> None:
    from ablation_plan import SEEDS, plan

    seeds: dict[object, set[int]] = {}
    for run in plan():
        seeds.setdefault(replace(run, seed=0), set()).add(run.seed)
    assert len(seeds) > 300
    for run, found in seeds.items():
        assert found in (set(range(SEEDS[run.data])), set(range(5))), run


def test_accuracies_by_setting_are_means_over_all_seeds(vanilla) -> None:
    from ablation_report import by_setting

    seeds = [{"seed": seed, "val_accuracy": 0.5 + 0.2 * seed} for seed in range(2)]
    methods = [HEADS | {"schedule": name} for name in ("hold-linear", "constant", "linear")]
    whole = [each | method for each in seeds for method in ({}, *methods)]
    lone = HEADS | {"schedule": "cosine", "seed": 0, "val_accuracy": 0.9}
    page = by_setting(table(vanilla, *whole, lone))
    assert page.count("60.0%") == 4
    assert "cosine" not in page


def test_time_to_vanillas_accuracy(vanilla) -> None:
    from ablation_statistics import times_to_vanilla

    runs = table(
        vanilla,
        *({"seed": seed, "val_accuracy": 0.6, "seconds": 10.0} for seed in (0, 1)),
        *({"seed": seed, **HEADS} for seed in (0, 1)),
    )
    keys = runs.loc[runs["method"] == "hold-linear", "run"].tolist()
    history = pd.DataFrame(
        {
            "run": [keys[0]] * 3 + [keys[1]] * 2,
            "seconds": [2.0, 4.0, 6.0, 2.0, 4.0],
            "val_accuracy": [0.5, 0.6, 0.7, 0.1, 0.2],
        }
    )
    first = history[history["run"] == keys[0]]
    alone = times_to_vanilla(runs[runs["seed"] == 0], first, "hold-linear")
    assert alone["share"].tolist() == [0.4]
    # The second seed never gets there.
    assert times_to_vanilla(runs, history, "hold-linear")["share"].tolist() == [np.inf]


def test_firing_by_thirds_of_the_layers(vanilla) -> None:
    from ablation_statistics import firing_by_place

    both = {"seed": 0}, {"seed": 0, **HEADS}
    runs = table(vanilla, *both, {"seed": 1, **HEADS})  # seed 1 has no partner
    rates = {"vanilla": [0, 0.2, 0.3, 0.3, 0.4, 0.6], "hold-linear": [0.5] * 6}
    firing = pd.DataFrame(
        {
            "run": row.run,
            "layer": layer,
            "firing_rate": rate + (row.seed and 0.4),
            "untrained": np.nan if row.method == "vanilla" else 0.1 * layer,  # an earlier run
        }
        for row in runs.itertuples()
        for layer, rate in enumerate(rates[row.method], start=1)
    )
    found = firing_by_place(runs, firing, "hold-linear").loc["digits plain 6 atan"]
    thirds = ["first", "middle", "last"]
    assert [found[third, "vanilla"] for third in thirds] == pytest.approx([0.1, 0.3, 0.5])
    assert [found[third, "hold-linear"] for third in thirds] == pytest.approx([0.5] * 3)
    assert [found[third, "untrained"] for third in thirds] == pytest.approx([0.15, 0.35, 0.55])


def test_vanishing_and_exploding_gradients_are_told_apart(vanilla) -> None:
    from ablation_statistics import vanillas_gradients

    runs = table(
        vanilla,
        *({"seed": seed, "spikes": norm} for seed, norm in enumerate((1.0, 400.0, 3.0))),
        {"spikes": 20.0, "clip": 1.0},
        {"spikes": 7.0, "lr": 0.3},
        {"spikes": 7.0, **HEADS},
    )
    first = dict(zip(runs["run"], runs["spikes"], strict=True))  # norms, carried along
    gradients = pd.DataFrame(
        {
            "run": run,
            "epoch": epoch,
            "place": place,
            "weight_grad_norm": 2.0 if place == "last" else norm / (1 + epoch),
            "coherence": 0.9 if place == "last" else 0.1 * int(place),
        }
        for run, norm in first.items()
        for epoch in (0, 2)
        for place in ("1", "2", "3", "last")
    )
    found = vanillas_gradients(runs, gradients)
    assert found.index.tolist() == ["digits plain 6 atan", "digits plain 6 atan clipped"]
    assert found["before"].tolist() == pytest.approx([1.5, 10])  # medians
    assert found["later"].tolist() == pytest.approx([0.5, 10 / 3])
    assert found["coherence"].tolist() == pytest.approx([0.2, 0.2])


def test_settings_of_one_seed_are_named_where_they_do_not_count(vanilla) -> None:
    from ablation_aims import vanishing

    handover = {**HEADS, "schedule": "ratio-each"}
    runs = table(
        vanilla,
        {"val_accuracy": 0.9},
        {"depth": 18, "seed": 0, "val_accuracy": 0.1, "test_accuracy": 0.1},
        {"depth": 18, "seed": 1, "val_accuracy": 0.1, "test_accuracy": 0.2},
        {"depth": 18, "seed": 0, "test_accuracy": 0.8, **handover},
        {"depth": 18, "seed": 1, "test_accuracy": 0.9, **handover},
        {"depth": 30, "val_accuracy": 0.1},
        {"depth": 30, **handover},
    )
    gradients = pd.DataFrame(
        {"run": run, "epoch": epoch, "place": place, "weight_grad_norm": 1.0, "coherence": 0.01}
        for run in runs["run"]
        for epoch in (0, 2)
        for place in ("1", "last")
    )
    said = vanishing({"runs": runs, "gradients": gradients}, "handover")
    assert said.endswith(
        "**1 of 1 settings**. Not counted, as of one seed only: digits plain 30 atan."
    )


def test_a_schedule_is_held_against_the_best_fixed_one(vanilla) -> None:
    from ablation_aims import unbeaten

    runs = table(
        vanilla,
        {"val_accuracy": 0.7, **HEADS, "schedule": "ratio-each"},
        {"val_accuracy": 0.6, **HEADS, "schedule": "constant"},
        {"val_accuracy": 0.72, **HEADS},
        {"val_accuracy": 0.7, "depth": 12, **HEADS, "schedule": "ratio-each"},
        {"val_accuracy": 0.7, "depth": 12, **HEADS},
    )
    said = unbeaten({"runs": runs}, "handover")
    assert "**1 of 2 settings**. Not so: digits plain 6 atan (2.0)." in said


@pytest.mark.skipif(not (RESULTS / "runs.csv").exists(), reason="no committed results here")
def test_committed_results_are_whole() -> None:
    page = (RESULTS / "RESULTS.md").read_text()
    assert all(f"({path.name})" in page for path in RESULTS.glob("*.png"))
    tables = read(RESULTS)
    for name in ("history", "heads", "gradients", "firing"):
        assert set(tables[name]["run"]) <= set(tables["runs"]["run"])
    for row in tables["runs"].to_dict("records"):
        from ablation_run import Run

        assert Run.of_row(row).key == row["run"]
