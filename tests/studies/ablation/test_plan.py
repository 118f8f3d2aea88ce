"""That the plan of the ablation study is whole."""

from dataclasses import replace

from analysis.ablation.plan import SEEDS, plan
from analysis.ablation.summed import SCHEDULE

VANILLA = {"at": "", "head": "", "combine": "loss", "schedule": "", "start": 1.0, "seed": 0}


def test_plan_is_complete() -> None:
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


def test_every_method_of_the_plan_has_all_seeds() -> None:
    seeds: dict[object, set[int]] = {}
    for run in plan():
        seeds.setdefault(replace(run, seed=0), set()).add(run.seed)
    assert len(seeds) > 300
    for run, found in seeds.items():
        other_rate = run.schedule == "none" and run.lr != 0.1
        if run.schedule == SCHEDULE or (other_rate and len(found) == 3):
            # The grid of ways of adding up, and rates that only bracket vanilla's best, have three.
            assert found == set(range(3)), run
        else:
            assert found in (set(range(SEEDS[run.data])), set(range(5))), run


def test_logits_and_losses_get_the_same_grid() -> None:
    grid = [run for run in plan() if run.schedule == SCHEDULE]
    logits, losses = ({run for run in grid if run.combine == way} for way in ("logits", "loss"))
    assert {replace(run, combine="loss") for run in logits} == losses
    settings = {replace(run, **VANILLA) for run in logits}
    assert len(settings) == 5 and len(logits) == 5 * 3 * 16
    assert {run.start for run in logits} == {0.1, 0.25, 0.5, 1.0}
    assert {(run.at, run.head) for run in logits} == {
        (at, head) for at in ("stages", "auto") for head in ("average", "grid2")
    }
