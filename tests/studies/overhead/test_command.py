"""That the study of costs measures what it says; what it found is in analysis/overhead/results."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis.overhead import report
from analysis.overhead.__main__ import main
from analysis.overhead.cases import AGAIN, DEFAULT, EVERYWHERE, quick_cases

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    asked = ["--quick", "--rounds", "1", "--out", str(tmp_path)]
    # Where many tests have run before, collecting garbage takes longer than all that is measured.
    subprocess.run([sys.executable, "-m", "analysis.overhead", *asked], check=True, cwd=ROOT)
    table = pd.read_csv(tmp_path / "heads_cpu.csv")
    assert table["case"].drop_duplicates().tolist() == [case.name for case in quick_cases()]
    assert (table[["ms", "ratio", "MiB", "memory_ratio"]] > 0).all(axis=None)
    assert (table["ratio_low"] <= table["ratio"]).all()
    assert (table["ratio"] <= table["ratio_high"]).all()
    memory = table[table["group"] == "models"].set_index("way")["memory_ratio"]
    assert memory[AGAIN] == 1 < memory[DEFAULT] < memory[EVERYWHERE]
    breaks = table[table["group"] == "compiled"]["graph_breaks"]
    assert breaks.tolist() == [0, 0]

    attempts = pd.read_csv(tmp_path / "attempts.csv").groupby("way")["outcome"]
    assert set(attempts.get_group("default heads of this package")) == {"runs"}
    assert attempts.get_group("create_feature_extractor").str.contains("control flow").all()

    page = (tmp_path / "RESULTS.md").read_text()
    for title in report.QUESTIONS.values():
        assert f"## {title}" in page
    assert (tmp_path / "heads_cpu.png").stat().st_size > 10_000

    before = (tmp_path / "heads_cpu.csv").read_bytes()
    main(asked)
    assert (tmp_path / "heads_cpu.csv").read_bytes() == before  # nothing was measured anew
    assert (tmp_path / "RESULTS.md").read_text() == page
    assert "RESULTS.md" in capsys.readouterr().out


def test_what_was_asked_for_wrongly(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--quick"])
    assert "must not mix" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no such case; the questions are models, time steps"):
        main(["--quick", "--out", str(tmp_path), "--only", "nonsense"])
