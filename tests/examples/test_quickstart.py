import argparse
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sj_shortcut import ShortcutLoss, has_shortcuts, shortcut_branches

SCRIPT = Path(__file__).resolve().parent.parent.parent / "examples" / "quickstart.py"


@pytest.fixture(scope="module")
def quickstart():
    spec = importlib.util.spec_from_file_location("quickstart", SCRIPT)
    module = sys.modules["quickstart"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["quickstart"]


@pytest.fixture
def tiny(quickstart):
    data = quickstart.load_data()
    return quickstart.Data(data.x_train[:40], data.x_test[:20], data.y_train[:40], data.y_test[:20])


def arguments(**changed):
    return argparse.Namespace(**{"depth": 6, "epochs": 2, "at": 2, "seed": 3} | changed)


def test_run_as_a_user_prints_a_table_and_saves_a_figure(tmp_path):
    out = tmp_path / "new" / "figure.png"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--epochs", "1", "--depth", "6", "--out", out],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "6 convolutional layers, 1 epochs, seed 0" in done.stdout
    for name in ("vanilla", "shortcuts"):
        row = re.search(rf"^{name} +([\d.]+)% +(\d\.\de[-+]\d+) +([\d.]+)$", done.stdout, re.M)
        assert row, done.stdout
        accuracy, norm, seconds = map(float, row.groups())
        assert 0 <= accuracy <= 100
        assert norm > 0 and seconds > 0
        # The output is no terminal: a line an epoch instead of a progress bar.
        assert re.search(rf"^{name} +epoch 1/1  test accuracy [\d.]+%$", done.stdout, re.M)
    assert "it/s" not in done.stderr
    assert str(out) in done.stdout
    assert out.read_bytes().startswith(b"\x89PNG") and out.stat().st_size > 10_000
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "figure.png"]


def test_both_trainings_start_from_the_same_weights(quickstart):
    plain, loss = quickstart.prepare(arguments(), with_shortcuts=False)
    helped, shortcut_loss = quickstart.prepare(arguments(), with_shortcuts=True)
    assert not has_shortcuts(plain) and not isinstance(loss, ShortcutLoss)
    assert len(shortcut_branches(helped)) == 2 and isinstance(shortcut_loss, ShortcutLoss)
    weights, others = plain.state_dict(), helped.state_dict()
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]), name
    assert all("shortcut_head" in name for name in others.keys() - weights.keys())


def test_both_trainings_see_the_same_batches(quickstart, tiny):
    first = list(quickstart.batches(tiny, seed=5))
    torch.rand(7)
    for (x, y), (other_x, other_y) in zip(first, quickstart.batches(tiny, seed=5), strict=True):
        assert torch.equal(x, other_x) and torch.equal(y, other_y)
    assert sum(len(y) for _, y in first) == len(tiny.y_train)


@pytest.mark.parametrize("with_shortcuts", [False, True])
def test_what_is_tested_in_the_end_is_the_plain_network(
    quickstart, tiny, with_shortcuts, monkeypatch
):
    tested = []
    measure = quickstart.measure_accuracy

    def spy(model, data):
        tested.append((type(model), has_shortcuts(model), len(list(model.parameters()))))
        return measure(model, data)

    monkeypatch.setattr(quickstart, "measure_accuracy", spy)
    result = quickstart.train(tiny, arguments(), with_shortcuts)
    plain, _ = quickstart.prepare(arguments(), with_shortcuts=False)
    assert [heads for _, heads, _ in tested] == [with_shortcuts, with_shortcuts, False]
    assert tested[-1] == (type(plain), False, len(list(plain.parameters())))
    # Heads do nothing in eval mode, so removing them changes nothing.
    assert result.final_accuracy == result.test_accuracy[-1]
    assert len(result.seconds) == len(result.gradient_norms) == 2
    assert len(result.gradient_norms[0]) == 6


def test_one_seed_gives_one_result(quickstart, tiny):
    one, same = (quickstart.train(tiny, arguments(), with_shortcuts=True) for _ in range(2))
    assert one.gradient_norms == same.gradient_norms
    assert one.test_accuracy == same.test_accuracy
    other = quickstart.train(tiny, arguments(seed=4), with_shortcuts=True)
    assert other.gradient_norms != one.gradient_norms


def test_split_keeps_every_image_once_and_all_classes(quickstart):
    data, again = quickstart.load_data(), quickstart.load_data()
    assert torch.equal(data.x_test, again.x_test)
    assert len(data.y_train) + len(data.y_test) == 1797
    shares = data.y_test.bincount() / torch.cat([data.y_train, data.y_test]).bincount()
    assert shares.min() > 0.18 and shares.max() < 0.22
    assert data.x_train.shape[1:] == (1, 8, 8) and data.x_train.max() == 1


@pytest.mark.parametrize("depth", [6, 7, 30])
def test_network_has_the_depth_asked_for(quickstart, depth):
    network = quickstart.plain_network(depth)
    convolutions = [m for m in network if isinstance(m, torch.nn.Conv2d)]
    assert type(network) is torch.nn.Sequential
    assert len(convolutions) == depth
    assert {c.out_channels for c in convolutions} == {16, 32, 64}
    assert sum(c.stride == (2, 2) for c in convolutions) == 2


def test_help_names_every_option_and_its_default(quickstart, capsys):
    with pytest.raises(SystemExit) as stop:
        quickstart.read_arguments(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in ("--epochs", "--depth", "--at", "--seed", "--out"):
        assert option in text
    assert text.count("(default: ") == 5


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--epochs", "0"], "argument --epochs: '0' is not a whole number of at least 1"),
        (["--epochs", "2.5"], "argument --epochs: '2.5' is not a whole number of at least 1"),
        (["--depth", "5"], "argument --depth: '5' is not a whole number of at least 6"),
        (["--seed", "-1"], "argument --seed: '-1' is not a whole number of at least 0"),
        (["--at", "30"], "the model has 29 points"),
        (["--at", "stage"], "matches no point"),
        (["--epoch", "3", "--bogus"], "unrecognized arguments: --bogus"),
        (["--out", "figure.txt"], "argument --out: 'figure.txt' does not end in .png"),
        (["--out", f"{SCRIPT}/figure.png"], "argument --out: "),
    ],
)
def test_bad_flags_give_one_line(quickstart, capsys, argv, complaint):
    with pytest.raises(SystemExit) as stop:
        quickstart.read_arguments(argv)
    assert stop.value.code == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    assert error.startswith("quickstart.py: error: ")
    assert complaint in error
    assert not Path("figure.txt").exists()


def test_default_is_a_head_every_third_layer_at_least(quickstart, tmp_path):
    args = quickstart.read_arguments(["--out", str(tmp_path / "a.png")])
    assert not list(tmp_path.iterdir())  # no figure before there is one to show
    _, loss = quickstart.prepare(args, with_shortcuts=True)
    _, stages = quickstart.prepare(arguments(depth=30, at="stages"), with_shortcuts=True)
    assert (args.depth, args.at) == (30, "auto")
    assert len(loss.weights) == 11 and len(stages.weights) == 2
