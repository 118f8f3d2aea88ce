"""The price on spikes, and heads on currents, as flags of the example scripts."""

import pandas as pd
import pytest

from tests.examples.scripts import (
    TINY,
    Script,
    assert_same_weights,
    run,
    succeed,
    weights,
)

FLAGS = [*TINY, "--epochs", "3"]
METHODS = [
    ["--method", "vanilla"],
    ["--method", "vanilla", "--per-step"],
    ["--reads", "currents"],
    ["--step-mode", "s", "--method", "evolutionary"],
]


@pytest.mark.parametrize("method", METHODS, ids=" ".join)
def test_a_priced_run_that_was_stopped_goes_on_to_the_bit(tmp_path, method):
    """Its targets are those of the untrained network, whenever it is resumed."""
    log, flags = tmp_path / "log", [*FLAGS, *method]
    priced = [*flags, "--price", "0.5"]
    done = succeed("train_cifar.py", *priced, "--out", tmp_path / "whole", log=log)
    assert "price   on spikes beyond 0.5 x the untrained rate of each layer" in done.out
    assert (pd.read_csv(tmp_path / "whole" / "metrics.csv")["loss_price"] > 0).any()
    script = Script("train_cifar.py", *priced, "--out", tmp_path / "cut", log=log)
    script.wait_for("epoch 1/3")
    script.process.terminate()
    script.wait()
    succeed("train_cifar.py", "--resume", tmp_path / "cut", log=log)
    assert_same_weights(tmp_path / "cut", tmp_path / "whole")
    plain = succeed("train_cifar.py", *flags, "--out", tmp_path / "plain", log=log)
    assert "price   on" not in plain.out
    assert weights(tmp_path / "plain").keys() == weights(tmp_path / "whole").keys()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--price", "0"], "'0' is not a number above 0"),
        (["--price", "--compile"], "--price counts spikes by hooks, which --compile leaves out"),
        (["--method", "vanilla", "--reads", "currents"], "--reads has no effect with --method van"),
    ],
)
def test_what_does_not_go_together_is_told(tmp_path, flags, message):
    done = run("train_cifar.py", *FLAGS, *flags, log=tmp_path / "log", cwd=tmp_path)
    assert message in done.error


def test_a_resumed_run_keeps_its_price(tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    succeed("train_cifar.py", *FLAGS, "--price", "--out", folder, log=log)
    done = run("train_cifar.py", "--resume", folder, "--price", "0.5", log=log)
    assert "--price 0.5 contradicts the run" in done.error
    assert "before it was trained" in done.error
