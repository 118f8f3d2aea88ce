"""A loop of one's own, logged: what is written, when, and that training stays what it was."""

import random

import numpy as np
import pandas as pd
import pytest
import torch
from spikingjelly.activation_based import functional
from torch import nn
from torch.utils.data import DataLoader, Dataset

from sj_shortcut import (
    EvolutionarySchedule,
    ShortcutLogger,
    ShortcutLoss,
    ShortcutWarning,
    wrap_with_shortcuts,
)
from tests.nets.small import CLASSES, Net, images, labels, skip_unless_neurons_compile
from tests.refusals import refused

HEADS = ["layer1.1", "layer2.1"]
pytestmark = pytest.mark.filterwarnings("error::sj_shortcut.ShortcutWarning")


def setting(mode="m", **options):
    torch.manual_seed(0)
    model = wrap_with_shortcuts(Net(mode))
    return model, ShortcutLoss(model, nn.CrossEntropyLoss(), EvolutionarySchedule(8), **options)


def train(model, criterion, logger=None, steps=4, look=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = 4 * torch.rand(2, 6, 8, generator=generator)
        single = model.layer1[1].step_mode == "s"
        output = torch.stack([model(step) for step in x]) if single else model(x)
        optimizer.zero_grad()
        criterion(output if criterion.per_step else output.mean(0), labels(6)).backward()
        if logger is not None:
            logger.step()
        optimizer.step()
        functional.reset_net(model)
        criterion.schedule.step()
        if logger is not None and look is not None:
            logger.look(look)
    return {
        name: value.clone() for name, value in model.state_dict().items() if "extra" not in name
    }


@pytest.mark.parametrize("mode", "ms")
def test_a_csv_file_has_every_number(tmp_path, mode):
    model, criterion = setting(mode)
    with ShortcutLogger(model, criterion, tmp_path / "run", every=2) as logger:
        train(model, criterion, logger)
    table = pd.read_csv(tmp_path / "run" / "shortcuts.csv")
    assert list(table.columns) == ["step", "name", "value"]
    assert sorted(table.step.unique()) == [0, 2]
    wide = table.pivot(index="step", columns="name", values="value")
    for head in HEADS:
        assert wide[f"lambda/{head}"].tolist() == pytest.approx([0.25, 0.25 * 6 / 8])
    heads = sum(wide[f"lambda/{head}"] * wide[f"loss/{head}"] for head in HEADS)
    assert wide["loss/total"].tolist() == pytest.approx((wide["loss/main"] + heads).tolist())
    for layer in ("layer1.0", "layer2.0", "layer3.0"):
        assert (wide[f"weight_grad_norm/{layer}"] > 0).all()
        assert wide[f"firing_rate/{layer}"].between(0, 1).all()


@pytest.mark.parametrize("mode", "ms")
@pytest.mark.parametrize("options", [{}, {"per_step": True}, {"combine": "logits"}])
def test_training_is_what_it_was_to_the_bit(tmp_path, mode, options):
    plain = train(*setting(mode, **options))
    model, criterion = setting(mode, **options)
    look = [(images(5), labels(5)), (images(5), labels(5))]
    with ShortcutLogger(model, criterion, tmp_path, every=2) as logger:
        logged = train(model, criterion, logger, look=look)
    assert plain.keys() == logged.keys()
    assert all(torch.equal(plain[name], logged[name]) for name in plain)


def test_a_look_tells_accuracies_and_coherence(tmp_path):
    model, criterion = setting()
    # Each head, and the output, of a class of its own: by its bias alone.
    for place, linear in enumerate(m for m in model.modules() if isinstance(m, nn.Linear)):
        if linear.out_features == CLASSES:
            nn.init.zeros_(linear.weight)
            linear.bias.data = 10.0 * torch.eye(CLASSES)[place % CLASSES]
    model.train()
    expected = {}
    x, y = images(8), torch.tensor([0, 0, 0, 0, 1, 1, 2, 3])
    for name, linear in {
        "main": model.fc,
        **{head: model.get_submodule(head).shortcut_head.head.linear for head in HEADS},
    }.items():
        expected[f"accuracy/{name}"] = (linear.bias.argmax() == y).float().mean().item()
    seen = []
    with ShortcutLogger(model, criterion, lambda values, step: seen.append((values, step))) as one:
        assert one.look((x, y)) == expected
        both = one.look([(x, y), (x, y)])
    assert model.training and seen == [(expected, 0), (both, 0)]
    assert {name: both[name] for name in expected} == expected
    # The same batch twice: wherever there is a gradient, it points the same way.
    coherent = [value for name, value in both.items() if name.startswith("coherence/")]
    assert coherent == pytest.approx([1.0] * len(coherent))


def test_looking_at_a_loader_leaves_random_numbers_alone():
    class Noisy(Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return images() + torch.rand(1) + random.random() + np.random.rand(), labels()

    model, criterion = setting()
    loader = DataLoader(Noisy(), batch_size=None, shuffle=True)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with ShortcutLogger(model, criterion, lambda values, step: None) as logger:
        logger.look(loader)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_a_step_in_eval_mode_is_told_once():
    model, criterion = setting()
    with ShortcutLogger(model, criterion, lambda values, step: None, every=1) as logger:
        train(model, criterion, logger, steps=1)
        model.eval()
        with torch.no_grad():
            criterion(model(images()).mean(0), labels())
        with pytest.warns(ShortcutWarning, match=r"step\(\) of ShortcutLogger .* eval mode"):
            logger.step()
        logger.step()


def test_without_layers_there_are_losses_only(tmp_path):
    model, criterion = setting()
    names = set()
    write = lambda values, step: names.update(values)  # noqa: E731
    with ShortcutLogger(model, criterion, write, every=1, layers=False, start=7) as logger:
        train(model, criterion, logger, steps=1)
    assert {name.split("/")[0] for name in names} == {"loss", "lambda"}


def test_steps_go_on_where_a_training_goes_on(tmp_path):
    file = tmp_path / "log.csv"
    for start in (0, 2):
        model, criterion = setting()
        with ShortcutLogger(model, criterion, file, every=1, start=start) as logger:
            train(model, criterion, logger, steps=2)
    assert pd.read_csv(file).step.unique().tolist() == [0, 1, 2, 3]


def test_wrong_arguments_are_refused_and_leave_no_file(tmp_path):
    model, criterion = setting()
    with refused(ValueError, "Net has no shortcuts: call wrap_with_shortcuts(model) first."):
        ShortcutLogger(Net(), criterion, tmp_path / "a")
    with refused(TypeError, "criterion must be a ShortcutLoss, got CrossEntropyLoss."):
        ShortcutLogger(model, nn.CrossEntropyLoss(), tmp_path / "a")
    with refused(ValueError, "criterion is a ShortcutLoss of another model (or of a copy): pass "
                 "the one that this model trains with."):  # fmt: skip
        ShortcutLogger(model, setting()[1], tmp_path / "a")
    with refused(ValueError, "there is nothing to write to: name a folder, such as 'runs/first'."):
        ShortcutLogger(model, criterion)
    with refused(ValueError, "start must be the number of a step, 0 or more, got -1."):
        ShortcutLogger(model, criterion, tmp_path / "a", start=-1)
    with pytest.raises(TypeError, match="when must be a number of steps"):
        ShortcutLogger(model, criterion, tmp_path / "a", every="often")
    assert not list(tmp_path.iterdir())
    logger = ShortcutLogger(model, criterion, tmp_path / "b")
    with pytest.raises(RuntimeError, match="inside `with"):
        logger.step()
    with refused(ValueError, "batches is empty: pass one (x, y), or an iterable of them."):
        logger.look([])
    with refused(ValueError, "accuracies need labels that are class numbers [N]."):
        logger.look((images(), torch.rand(3, CLASSES)))
    assert model.training


def test_a_compiled_model_shows_no_spikes():
    skip_unless_neurons_compile()
    model, criterion = setting()
    compiled = torch.compile(model, backend="eager")
    names = set()
    write = lambda values, step: names.update(values)  # noqa: E731
    with ShortcutLogger(compiled, criterion, write, every=1) as logger:
        criterion(compiled(images()).mean(0), labels()).backward()
        assert logger.step()
    assert {name.split("/")[0] for name in names} == {"loss", "lambda", "weight_grad_norm"}
