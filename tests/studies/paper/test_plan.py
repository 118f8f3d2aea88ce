"""The plan of the study of the paper's claims."""

from dataclasses import asdict, replace

from analysis.paper.plan import CLAIMED, METHODS, NAMES, RATE, Run, plan


def test_every_seed_has_every_method_on_both_networks() -> None:
    runs = plan()
    assert len({run.key for run in runs}) == len(runs) == len(set(runs))
    for seed in (0, 1, 2):
        own = {(run.net, run.depth, run.method) for run in runs if run.seed == seed}
        assert own == {
            *(("resnet", depth, method) for depth in (18, 34) for method in METHODS),
            ("sew", 34, "vanilla"),
        }
    assert set(NAMES) == {*METHODS, "sew"}


def test_any_beginning_tells_most() -> None:
    runs = plan()
    claimed, rates = runs[:18], runs[18:30]
    assert {run.method for run in claimed} == set(CLAIMED)
    assert {run.lr for run in claimed} == {RATE}
    for part, a_seed in ((claimed, 6), (rates, 4), (runs[30:], 5)):
        assert [run.seed for run in part] == [0] * a_seed + [1] * a_seed + [2] * a_seed
    assert {run.depth for run in claimed[:6]} == {18, 34}
    assert {run.method for run in rates} == {"vanilla"}
    assert RATE not in {run.lr for run in rates}


def test_vanillas_rate_is_bracketed() -> None:
    for depth in (18, 34):
        for seed in (0, 1, 2):
            own = replace(plan()[0], depth=depth, seed=seed)
            tried = {run.lr for run in plan() if replace(run, lr=RATE) == own}
            assert min(tried) < RATE < max(tried)


def test_full_width_is_the_same_plan() -> None:
    narrow, wide = plan(), plan(64, amp=True)
    assert [replace(run, width=8, amp=False) for run in wide] == narrow
    assert not {run.key for run in narrow} & {run.key for run in wide}


def test_a_run_is_read_back_from_its_row() -> None:
    for run in plan()[::7]:
        row = {name: str(value) if name == "lr" else value for name, value in asdict(run).items()}
        assert Run.of_row(row) == run
