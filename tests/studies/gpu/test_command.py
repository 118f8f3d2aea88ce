"""The command for a GPU, as far as a CPU can try it."""

import pandas as pd
import pytest
import torch

from analysis.gpu.__main__ import main
from analysis.gpu.costs import cost
from analysis.gpu.parity import checks
from analysis.gpu.steps import NEURONS, amp_step, make_net, run_all, train_step


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would be run")
def test_without_a_gpu_it_says_what_it_would_do(capsys, tmp_path):
    assert main(["--out", str(tmp_path / "gpu.csv")]) == 0
    said = capsys.readouterr().out
    assert "has no GPU" in said and "neurons" in said and "NCCL" in said and "2, 32, 128" in said
    assert not (tmp_path / "gpu.csv").exists()


def test_on_a_cpu_it_runs_what_it_can_and_writes_a_table(capsys, tmp_path):
    out = tmp_path / "gpu.csv"
    only = ["neurons", "AMP", "graph", "gloo", "step"]
    asked = ["--device", "cpu", "--batches", "2", "--rounds", "1", "--side", "8"]
    assert main([*asked, "--out", str(out), "--only", *only]) == 0
    table = pd.read_csv(out).set_index("check")
    assert table["result"].to_dict() == {
        **{name: "skipped" for name in checks("cpu") if "neurons" in name},
        "AMP fp16": "ok",
        "AMP bf16": "ok",
        "CUDA graph": "skipped",
        "gloo, one process": "ok",
        "step, batch 2": "ok",
    }
    assert (table.loc["step, batch 2", ["ms_bare", "ms_wrapped", "ratio"]] > 0).all()
    assert (table["torch"] == torch.__version__).all() and table["device"].notna().all()
    said = capsys.readouterr().out
    assert "needs a GPU" in said and "step, batch 2" in said and str(out) in said


def test_what_fails_is_told_and_the_rest_is_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(NEURONS, "if", torch.nn.ReLU)  # which takes no threshold
    asked = ["--device", "cpu", "--batches", "--only", "AMP bf16", "gloo"]
    assert main([*asked, "--out", str(tmp_path / "gpu.csv")]) == 1
    table = pd.read_csv(tmp_path / "gpu.csv").set_index("check")
    assert table["result"].to_dict() == {"AMP bf16": "FAILED", "gloo, one process": "ok"}
    assert table["why"]["AMP bf16"].startswith("TypeError")


def test_nothing_begins_after_the_time_is_over(tmp_path):
    asked = ["--device", "cpu", "--minutes", "-1", "--out", str(tmp_path / "gpu.csv")]
    assert main(asked) == 0
    assert set(pd.read_csv(tmp_path / "gpu.csv")["result"]) == {"no time"}


def test_steps_are_the_same_every_time_and_scaled_ones_step_every_weight():
    first, again = run_all("torch", "cpu"), run_all("torch", "cpu")
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert {key[0] for key in first} == set(NEURONS)
    assert all(grad.any() for grad in first["lif", "m"]["gradients"].values())
    overflown = amp_step(make_net(NEURONS["lif"]), init_scale=2.0**60)
    assert all(overflown["before"][n].equal(w) for n, w in overflown["after"].items())


def test_a_parity_check_sees_a_wrong_gradient(monkeypatch):
    def wrong(*args, **options):
        found = train_step(*args, **options)
        found["gradients"]["0.weight"] = found["gradients"]["0.weight"] * 1.1
        return found

    monkeypatch.setattr("analysis.gpu.parity.train_step", wrong)
    with pytest.raises(AssertionError, match=r"0\.weight"):
        checks("cpu")["gloo, one process"]()


def test_a_cost_is_of_the_same_network_wrapped_and_bare():
    row = cost("cpu", 2, rounds=1, side=8)
    assert row["batch"] == 2 and row["ratio"] == pytest.approx(
        row["ms_wrapped"] / row["ms_bare"], rel=0.01
    )
