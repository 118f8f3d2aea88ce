"""A callback for Lightning's Trainer; the one module that needs ``lightning``."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from sj_shortcut.gradients.recorder import GradientRecorder
from sj_shortcut.logs.scalars import layer_scalars, loss_means
from sj_shortcut.shortcuts.access import find_wrapped, shortcut_branches
from sj_shortcut.shortcuts.loss import ShortcutLoss

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "ShortcutCallback is for Lightning, which is not installed: pip install lightning"
    ) from error

__all__ = ["ShortcutCallback"]


class ShortcutCallback(Callback):
    """Steps the schedule after each training epoch, and logs how the training with shortcuts goes.

    At the steps that the Trainer logs (``log_every_n_steps``) it logs ``loss/total``,
    ``loss/main`` and ``loss/HEAD``, ``lambda/HEAD``, ``weight_grad_norm/LAYER`` and
    ``firing_rate/LAYER``, to whatever loggers the Trainer has: CSV, TensorBoard, Weights & Biases.

    The module holds the wrapped model and its :class:`ShortcutLoss`, as attributes. What a schedule
    knows is then a part of Lightning's checkpoints.

    Args:
        step_schedule: Whether to call ``criterion.schedule.step()`` after each training epoch;
            leave that out of the module then.
        layers: Whether to log numbers of layers.

    Raises:
        ValueError: As the training begins, if the module does not hold one wrapped model and one
            :class:`ShortcutLoss`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(max_epochs=3, callbacks=[ShortcutCallback()], accelerator="cpu",
        ...                   logger=False, enable_checkpointing=False)
    """

    def __init__(self, *, step_schedule: bool = True, layers: bool = True) -> None:
        self.step_schedule = step_schedule
        self.layers = layers
        self._recorder: GradientRecorder | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the model and its loss, and begin to record."""
        _criterion_in(pl_module)
        model = find_wrapped(pl_module)
        every, first = int(getattr(trainer, "log_every_n_steps", 0)), trainer.global_step
        if self.layers and every:
            self._recorder = GradientRecorder(
                model,
                when=lambda step: (first + step + 1) % every == 0,
                activity=("firing_rate",),
            )
            self._recorder.__enter__()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Log losses, λ and numbers of layers; Lightning keeps to the steps that it logs."""
        criterion = _criterion_in(pl_module)
        values: dict[str, Any] = {**loss_means(criterion)}
        for name in shortcut_branches(find_wrapped(pl_module)):
            coefficient = criterion.schedule.coefficient_of(name)
            values[f"lambda/{name}"] = coefficient * criterion.weights[name]
        recorder = self._recorder
        if recorder is not None and recorder.step():
            values |= layer_scalars(recorder.latest, ("weight_grad_norm", "firing_rate"))
        pl_module.log_dict(values, on_step=True, on_epoch=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Step the schedule."""
        if self.step_schedule:
            _criterion_in(pl_module).schedule.step()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the hooks off."""
        self._stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Take the hooks off."""
        self._stop()

    def _stop(self) -> None:
        if self._recorder is not None:
            self._recorder.__exit__()
            self._recorder = None


def _criterion_in(module: LightningModule) -> ShortcutLoss:
    found = [inner for inner in module.modules() if isinstance(inner, ShortcutLoss)]
    if len(found) != 1:
        raise ValueError(
            f"{type(module).__name__} holds {len(found)} ShortcutLoss: keep one as an attribute, "
            "self.criterion = ShortcutLoss(self.net, criterion), so that its schedule is found."
        )
    return found[0]
