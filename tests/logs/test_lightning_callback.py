"""Lightning's Trainer with the callback: what it logs, and that training stays what it was."""

import copy
import subprocess
import sys
from pathlib import Path

import lightning
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from spikingjelly.activation_based import functional
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sj_shortcut import EvolutionarySchedule, ShortcutLoss, wrap_with_shortcuts
from sj_shortcut.logs.lightning_callback import ShortcutCallback
from tests.nets.small import CLASSES, Net, T, same
from tests.refusals import refused

EPOCHS = 3
pytestmark = pytest.mark.filterwarnings(
    "error::sj_shortcut.ShortcutWarning",
    "ignore:.*LeafSpec.* is deprecated",
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning",
)


class Module(lightning.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.criterion = ShortcutLoss(net, nn.CrossEntropyLoss(), EvolutionarySchedule(EPOCHS))

    def training_step(self, batch, index):
        x, y = batch
        functional.reset_net(self.net)
        return self.criterion(self.net(x.transpose(0, 1)).mean(0), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader() -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    x = 4 * torch.rand(16, T, 8, generator=generator)
    return DataLoader(TensorDataset(x, torch.arange(16) % CLASSES), batch_size=4)


def fit(module: Module, folder: Path, callback: ShortcutCallback) -> lightning.Trainer:
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[callback],
        logger=CSVLogger(folder),
        log_every_n_steps=2,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader())
    return trainer


def wrapped() -> nn.Module:
    torch.manual_seed(0)
    return wrap_with_shortcuts(Net())


def test_it_logs_losses_lambda_and_layers(tmp_path):
    module = Module(wrapped())
    trainer = fit(module, tmp_path, ShortcutCallback())
    table = pd.read_csv(Path(trainer.logger.log_dir) / "metrics.csv")
    heads = ["layer1.1", "layer2.1"]
    for head in heads:
        # λ of the epoch that a step belongs to, as the paper's line has it.
        expected = [0.25 * (1 - epoch / EPOCHS) for epoch in table.epoch]
        assert table[f"lambda/{head}"].tolist() == pytest.approx(expected)
    parts = table["loss/main"] + table[f"lambda/{heads[0]}"] * (
        table[f"loss/{heads[0]}"] + table[f"loss/{heads[1]}"]
    )
    assert table["loss/total"].to_numpy() == pytest.approx(parts.to_numpy(), rel=1e-5)
    assert (table["weight_grad_norm/layer1.0"] > 0).all()
    assert table["firing_rate/layer3.0"].between(0, 1).all()
    assert len(table) == 4 * EPOCHS // 2


def test_it_steps_the_schedule_and_changes_no_weight(tmp_path):
    net = wrapped()
    module, plain = Module(net), Module(copy.deepcopy(net))
    fit(module, tmp_path / "with", ShortcutCallback())
    assert module.criterion.schedule.last_epoch == EPOCHS

    optimizer = plain.configure_optimizers()
    for _ in range(EPOCHS):
        for batch in loader():
            optimizer.zero_grad()
            plain.training_step(batch, 0).backward()
            optimizer.step()
        plain.criterion.schedule.step()
    assert same(module.net.state_dict(), plain.net.state_dict())
    assert not any(inner._forward_pre_hooks for inner in module.net.fc.modules())


def test_losses_of_each_sample_are_logged_as_their_means(tmp_path):
    class Weighed(Module):
        def training_step(self, batch, index):
            return super().training_step(batch, index).mean()

    module = Weighed(wrapped())
    module.criterion.criterion = nn.CrossEntropyLoss(reduction="none")
    trainer = fit(module, tmp_path, ShortcutCallback())
    mean = module.criterion.parts["total"].mean().item()
    assert trainer.logged_metrics["loss/total"].item() == pytest.approx(mean)


def test_a_schedule_that_is_stepped_elsewhere_is_left_alone():
    module = Module(wrapped())
    ShortcutCallback(step_schedule=False).on_train_epoch_end(None, module)
    assert module.criterion.schedule.last_epoch == 0


def test_a_module_without_the_loss_is_refused():
    module = Module(wrapped())
    del module.criterion
    with refused(
        ValueError,
        "Module holds 0 ShortcutLoss: keep one as an attribute, self.criterion = "
        "ShortcutLoss(self.net, criterion), so that its schedule is found.",
    ):
        ShortcutCallback().on_train_start(None, module)


def test_without_lightning_the_error_says_what_to_install():
    script = (
        "import sys; sys.modules['lightning'] = None; sys.modules['lightning.pytorch'] = None\n"
        "import sj_shortcut.logs\n"
        "try:\n    import sj_shortcut.logs.lightning_callback\n"
        "except ModuleNotFoundError as error:\n    sys.exit('pip install' not in str(error))\n"
        "sys.exit('imported')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
