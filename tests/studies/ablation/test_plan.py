"""That the plan of the ablation study is whole."""

from dataclasses import replace

from analysis.ablation.plan import SEEDS, plan


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
        assert found in (set(range(SEEDS[run.data])), set(range(5))), run
