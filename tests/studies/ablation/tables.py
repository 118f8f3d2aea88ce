"""Tables of runs as the study would write them."""

from dataclasses import replace

import pandas as pd

from analysis.ablation.statistics import (
    labelled,
)


def table(vanilla, *rows: dict) -> pd.DataFrame:
    usual = {"val_accuracy": 0.5, "test_accuracy": 0.5, "spikes": 1.0, "seconds": 10.0}
    made = []
    for row in rows:
        settings = {key: value for key, value in row.items() if key in vars(vanilla)}
        run = replace(vanilla, **settings)
        made.append({**vars(run), "run": run.key, **usual, **row})
    return labelled(pd.DataFrame(made))


HEADS = {"at": "auto", "head": "grid2", "schedule": "hold-linear"}
