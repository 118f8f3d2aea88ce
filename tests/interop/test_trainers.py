"""Lightning's Trainer and Accelerate train as the plain loop does, by docs/recipes.md."""

import copy
from contextlib import nullcontext
from typing import Any

import lightning
import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from spikingjelly.activation_based import functional
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sj_shortcut import (
    ConstantSchedule,
    EvolutionarySchedule,
    ShortcutLoss,
    ShortcutWarning,
    remove_shortcuts,
    wrap_with_shortcuts,
)
from sj_shortcut.logs.lightning_callback import ShortcutCallback
from tests import recipes
from tests.nets.small import CLASSES, Net, T, same

EPOCHS = 4
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.* is deprecated",
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning",
)


@pytest.fixture(autouse=True)
def _alone_in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    if dist.is_initialized():
        dist.destroy_process_group()


def batches() -> DataLoader:
    """Four batches ``[N, T, 8]``, the same every epoch."""
    generator = torch.Generator().manual_seed(1)
    x = 4 * torch.rand(16, T, 8, generator=generator)
    return DataLoader(TensorDataset(x, torch.arange(16) % CLASSES), batch_size=4)


def train_by_hand(
    model: nn.Module,
    criterion: ShortcutLoss,
    *,
    epochs: int = EPOCHS,
    accumulate: int = 1,
    clip: float | None = None,
    bf16: bool = False,
    widen: bool = False,
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(epochs):
        for i, (x, y) in enumerate(batches()):
            with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
                output = model(x.transpose(0, 1))
                loss = criterion((output.float() if widen else output).mean(0), y)
            (loss / accumulate).backward()
            functional.reset_net(model)
            if (i + 1) % accumulate == 0:
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
        criterion.schedule.step()


def assert_close(state: dict[str, Any], expected: dict[str, Any]) -> None:
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(state[name], value, msg=name)
        else:
            assert state[name] == value, name


def kept(state: dict[str, Any], start: dict[str, Any]) -> set[str]:
    """Names of the tensors that are as they were."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return {name for name, value in tensors.items() if value.equal(start[name])}


# Lightning


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("recipe"))
        return recipes.run("Lightning")


def trainer(epochs: int = EPOCHS, **options: Any) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        log_every_n_steps=1,
        callbacks=[ShortcutCallback()],
        **options,
    )


WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as it is": ({}, {}),
    "accumulating": ({"accumulate_grad_batches": 2}, {"accumulate": 2}),
    "clipping": ({"gradient_clip_val": 0.05}, {"clip": 0.05}),
    "bf16": ({"precision": "bf16-mixed"}, {"bf16": True}),
    # Lightning's own sampler would shuffle.
    "ddp": ({"strategy": "ddp", "use_distributed_sampler": False}, {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_lightning_trains_as_the_plain_loop(recipe, way):
    options, by_hand = WAYS[way]
    lit = recipe["LitNet"](EPOCHS)
    twin = copy.deepcopy(lit)
    start = copy.deepcopy(lit.state_dict())
    trainer(**options).fit(lit, batches(), batches())
    train_by_hand(twin.net, twin.criterion, **by_hand)
    assert_close(lit.state_dict(), twin.state_dict())
    assert not kept(lit.state_dict(), start)
    assert lit.criterion.schedule.last_epoch == EPOCHS


def test_lightning_validates_without_heads(recipe):
    lit = recipe["LitNet"](EPOCHS)
    (metrics,) = trainer().validate(lit, batches(), verbose=False)
    plain = remove_shortcuts(lit.net).eval()
    losses = []
    for x, y in batches():
        functional.reset_net(plain)
        losses.append(nn.functional.cross_entropy(plain(x.transpose(0, 1)).mean(0), y))
    assert metrics["val_loss"] == pytest.approx(torch.stack(losses).mean().item())


def test_lightning_resumes_with_the_coefficient_it_had(recipe):
    whole = recipe["LitNet"](EPOCHS)
    interrupted, resumed = copy.deepcopy(whole), recipe["LitNet"](EPOCHS)
    trainer().fit(whole, batches())
    first = trainer(epochs=3)
    first.fit(interrupted, batches())
    assert 0 < interrupted.criterion.schedule.coefficient < 1
    trainer().fit(resumed, batches(), ckpt_path=first.checkpoint_callback.best_model_path)
    assert same(resumed.state_dict(), whole.state_dict())
    assert resumed.criterion.schedule.state_dict() == whole.criterion.schedule.state_dict()


def test_lightning_ddp_without_looking_for_unused_parameters_at_coefficient_0(recipe):
    lit = recipe["LitNet"](EPOCHS)
    lit.criterion = ShortcutLoss(lit.net, nn.CrossEntropyLoss(), ConstantSchedule(0.0))
    start = copy.deepcopy(lit.state_dict())
    trainer(strategy="ddp").fit(lit, batches())
    assert kept(lit.state_dict(), start) == {name for name in start if "shortcut_head" in name}


# Accelerate


def train_with_accelerate(
    accelerator: Accelerator, model: nn.Module, criterion: ShortcutLoss, epochs: int = EPOCHS
) -> nn.Module:
    """The recipe as a function; returns the prepared model."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model, optimizer, loader = accelerator.prepare(model, optimizer, batches())
    accelerator.register_for_checkpointing(criterion.schedule)
    for _ in range(epochs):
        for x, y in loader:
            with accelerator.accumulate(model):
                with accelerator.autocast():
                    loss = criterion(model(x.transpose(0, 1)).mean(0), y)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            functional.reset_net(model)
        criterion.schedule.step()
    return model


def wrapped() -> tuple[nn.Module, ShortcutLoss]:
    model = wrap_with_shortcuts(Net())
    return model, ShortcutLoss(model, nn.CrossEntropyLoss(), EvolutionarySchedule(EPOCHS))


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_trains_as_the_plain_loop(precision, accumulate):
    model, criterion = wrapped()
    twin, of_twin = copy.deepcopy((model, criterion))
    accelerator = Accelerator(
        cpu=True, mixed_precision=precision, gradient_accumulation_steps=accumulate
    )
    prepared = train_with_accelerate(accelerator, model, criterion)
    # Accelerate hands the output over in float32.
    train_by_hand(twin, of_twin, bf16=precision == "bf16", widen=True, accumulate=accumulate)
    assert_close(model.state_dict(), twin.state_dict())
    plain = remove_shortcuts(accelerator.unwrap_model(prepared, keep_fp32_wrapper=False))
    assert plain is model and list(plain.state_dict()) == list(Net().state_dict())


def test_accelerate_takes_all_losses_in_full_precision():
    model, criterion = wrapped()
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    train_with_accelerate(accelerator, model, criterion, epochs=1)
    assert len(criterion.parts) == 4
    assert {part.dtype for part in criterion.parts.values()} == {torch.float32}


def test_accelerate_saves_and_restores_the_coefficient(tmp_path):
    model, criterion = wrapped()
    accelerator = Accelerator(cpu=True)
    train_with_accelerate(accelerator, model, criterion, epochs=3)
    accelerator.save_state(tmp_path / "state")
    saved = copy.deepcopy(model.state_dict())
    coefficient = criterion.schedule.coefficient
    assert 0 < coefficient < 1
    criterion.schedule.step()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    accelerator.load_state(tmp_path / "state")
    assert criterion.schedule.coefficient == coefficient and criterion.schedule.last_epoch == 3
    assert same(model.state_dict(), saved)


def test_a_schedule_that_the_module_steps_as_well_is_told(recipe):
    class StepsItself(recipe["LitNet"]):
        def on_train_epoch_end(self) -> None:
            self.criterion.schedule.step()

    with pytest.warns(ShortcutWarning, match="stepped 2 times from one training loss"):
        trainer(4).fit(StepsItself(40), batches())
