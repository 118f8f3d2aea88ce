"""That the study of what recording costs runs; what it found is in analysis/overhead/results."""

from pathlib import Path

import pandas as pd
import pytest

from analysis.overhead import recording


@pytest.mark.slow
def test_quick(tmp_path: Path, capsys) -> None:
    table = recording.main(["--quick", "--rounds", "2", "--steps", "1", "--out", str(tmp_path)])
    written = pd.read_csv(tmp_path / "recording_cpu.csv")
    assert written.variant.tolist() == table.variant.tolist() == list(recording.VARIANTS)
    assert (table[["ms", "ratio"]] > 0).all(axis=None)
    assert "everything" in capsys.readouterr().out
    growth = table.set_index("variant").MiB_per_step
    recorded = [name for name in growth.index if "onitor" not in name]
    assert (growth[recorded].abs() < 0.001).all()
    assert growth["both monitors"] > 0.1
