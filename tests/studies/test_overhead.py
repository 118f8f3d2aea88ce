"""That the study of costs measures what it says; what it found is in analysis/results/overhead."""

import random
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "analysis"))

import overhead
import overhead_report
from overhead_by_hand import HEADS, FeatureExtractor, Hooked, choose
from overhead_cases import AGAIN, DEFAULT, EVERYWHERE, quick_cases
from overhead_nets import Bench
from overhead_timing import interleave, median, peak_bytes
from overhead_variants import check_same_tree

from sj_shortcut import ShortcutLoss, remove_shortcuts, shortcut_branches, wrap_with_shortcuts

CPU = torch.device("cpu")


def bench(mode: str = "m") -> Bench:
    return Bench("plain 6x8", T=3, batch=2, mode=mode, device=CPU, size=8)


def test_quick(tmp_path, capsys):
    asked = ["--quick", "--out", str(tmp_path)]
    overhead.main(asked)
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
    for title in overhead_report.QUESTIONS.values():
        assert f"## {title}" in page
    assert (tmp_path / "heads_cpu.png").stat().st_size > 10_000

    before = (tmp_path / "heads_cpu.csv").read_bytes()
    overhead.main(asked)
    assert (tmp_path / "heads_cpu.csv").read_bytes() == before  # nothing was measured anew
    assert (tmp_path / "RESULTS.md").read_text() == page
    assert "RESULTS.md" in capsys.readouterr().out


def test_what_was_asked_for_wrongly(tmp_path, capsys):
    with pytest.raises(SystemExit):
        overhead.main(["--quick"])
    assert "must not mix" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no such case; the questions are models, time steps"):
        overhead.main(["--quick", "--out", str(tmp_path), "--only", "nonsense"])


def test_rounds_are_paired_and_in_changing_order():
    calls = []
    values = {"one": iter([1.0, 2.0, 4.0, 8.0] * 5), "two": iter([2.0, 4.0, 8.0, 16.0] * 5)}

    def measure(name):
        calls.append(name)
        return next(values[name])

    measures = {name: lambda name=name: measure(name) for name in values}
    times = interleave(measures, 20, random.Random(0))
    # Times that vary eightfold, and in each round one is twice the other.
    assert median(times["two"] / times["one"]) == (2.0, 2.0, 2.0)
    assert {tuple(calls[i : i + 2]) for i in range(0, 40, 2)} == {("one", "two"), ("two", "one")}


def test_the_interval_holds_the_median_and_narrows():
    draw = torch.Generator().manual_seed(0)
    few, many = (pd.Series(torch.randn(n, generator=draw).numpy()) for n in (20, 400))
    assert median(few).low < 0 < median(few).high
    assert median(many).high - median(many).low < (median(few).high - median(few).low) / 2


def test_memory_is_the_peak_and_not_the_sum():
    def step():
        for _ in range(3):
            one = torch.empty(2**20, dtype=torch.uint8)
            del one
        two, three = torch.empty(2**19, dtype=torch.uint8), torch.empty(2**20, dtype=torch.uint8)
        del two, three

    assert peak_bytes(step, CPU) == 2**20 + 2**19


@pytest.mark.parametrize("mode", ["m", "s"])
@pytest.mark.parametrize("way", ["hooks", "extractor"])
def test_heads_by_hand_compute_the_same(way, mode):
    ours, theirs = bench(mode), bench(mode)
    points = choose(theirs.model)
    if way == "hooks":
        by_hand = Hooked(theirs.model, points, HEADS["linear"], mode)
        linears = [head.linear for head in by_hand.heads]
    else:
        by_hand = FeatureExtractor(theirs.model, points)
        linears = list(by_hand.heads)
    wrap_with_shortcuts(ours.model)
    for branch, linear in zip(shortcut_branches(ours.model).values(), linears, strict=True):
        linear.load_state_dict(branch.head.linear.state_dict())
    criterion = ShortcutLoss(ours.model, ours.criterion)
    loss = criterion(ours.logits(ours.model), ours.y)
    torch.testing.assert_close(by_hand.loss(theirs), loss)
    if way == "hooks":
        by_hand.unhook()
        check_same_tree(theirs.model, bench(mode).model)


def test_a_tree_that_did_not_come_back_is_noticed():
    one, other = bench().model, bench().model
    check_same_tree(remove_shortcuts(wrap_with_shortcuts(one)), other)
    one.register_forward_hook(lambda *args: None)
    with pytest.raises(AssertionError, match="module tree"):
        check_same_tree(one, other)


def row(ratio, low, high, aim):
    return pd.Series({"ratio": ratio, "ratio_low": low, "ratio_high": high, "aim": aim})


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (row(1.01, 1.00, 1.02, 1.02), "yes"),
        (row(1.01, 1.00, 1.03, 1.02), "yes, but within noise"),
        (row(1.03, 1.01, 1.05, 1.02), "**no**, but within noise"),
        (row(1.04, 1.03, 1.05, 1.02), "**no**"),
        (row(1.01, 0.99, 1.03, 1.0), "yes"),
        (row(1.02, 1.01, 1.03, 1.0), "**no**"),
    ],
)
def test_an_aim_is_met_or_missed_or_undecided(measured, verdict):
    assert overhead_report._verdict(measured) == verdict
