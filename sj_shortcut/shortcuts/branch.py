"""The branch at a tapped module: hands its features to a head and checks what comes out."""

from __future__ import annotations

import inspect
from typing import Any, cast

from torch import Tensor, nn

from sj_shortcut.neurons import Resettable, has_step_mode, set_step_mode
from sj_shortcut.shortcuts.forwards import Forwards
from sj_shortcut.shortcuts.pooling import average

__all__ = ["ShortcutBranch"]


class ShortcutBranch(Resettable):
    """Feeds the features of one point to a head. It keeps nothing from one call to the next.

    What a head sees follows from what it declares:

    - a ``forward`` with a parameter ``with_time`` (as that of :class:`ShortcutHead`) takes
      ``[T, N, C, ...]`` and averages over time itself;
    - a head that holds SpikingJelly modules with a step mode sees every time step:
      ``[T, N, C, ...]`` of a point that gives all of them at once, else ``[N, C, ...]`` a call;
    - any other sees ``[N, C, ...]``: features averaged over time, or those of each step, after
      which its logits are averaged (the same, if the head is linear).

    Args:
        name: Dotted path of the tapped module.
        head: The head.
        channels: Channels C of the features.
        num_classes: Number of classes K.
        forwards: What the heads of one model know of its forward passes.
    """

    # What reads the places of a model passes over it.
    is_shortcut_branch = True

    def __init__(
        self,
        name: str,
        head: nn.Module,
        channels: int,
        num_classes: int,
        forwards: Forwards | None = None,
    ) -> None:
        # Before the base class, which sets a first step mode.
        self.forwards = forwards if forwards is not None else Forwards()
        self._mode_of_head = ""
        super().__init__()
        self.name = name
        self.head = head
        self.channels = channels
        self.num_classes = num_classes
        self._read_head()

    def forward(self, x: Tensor, with_time: bool = False, per_step: bool = False) -> Tensor:
        """Logits of the features of one call.

        Args:
            x: ``[T, N, C, ...]`` with time, else ``[N, C, ...]``.
            with_time: Whether ``x`` has a time axis.
            per_step: Whether to keep time steps apart.

        Returns:
            ``[N, K]``; per step ``[T, N, K]``, with T = 1 where ``x`` has no time.

        Raises:
            ValueError: If the features have other channels than the head was made for, or the head
                gives something else than logits.
        """
        self.check_features(x, with_time)
        self.follow(with_time)
        if not with_time:
            logits = self._checked(self.head(x), (2,))
            return logits.unsqueeze(0) if per_step else logits
        if per_step:
            return self._each_step(x)
        if self.takes_time:
            return self._checked(self.head(x, with_time=True), (2,))
        if self.sees_steps:
            logits = self._checked(self.head(x), (2, 3))
            return logits if logits.ndim == 2 else logits.mean(0)
        return self._checked(self.head(average(x, (0,))), (2,))

    def check_features(self, x: Tensor, with_time: bool) -> None:
        """Refuse features of other channels than the head was made for.

        Args:
            x: As for ``forward``.
            with_time: Likewise.

        Raises:
            ValueError: If they are.
        """
        axis = 2 if with_time else 1
        if x.ndim > axis and x.shape[axis] == self.channels:
            return
        axes = "[T, N, C, ...]" if with_time else "[N, C, ...]"
        raise ValueError(
            f"the shortcut head at '{self.name}' was made for {self.channels} channels, but its "
            f"point gave {tuple(x.shape)}, read as {axes}. Where a made-up batch does "
            "not tell the channels, pass example_input= to wrap_with_shortcuts; where the axes "
            "were misread, pass layout=."
        )

    def follow(self, with_time: bool) -> None:
        """Let the head's layers run as the features come, whatever the model's step mode is.

        Args:
            with_time: Whether the features have a time axis.
        """
        mode = "m" if with_time else "s"
        if self.sees_steps and self._mode_of_head != mode:
            set_step_mode(self.head, mode)
            self._mode_of_head = mode

    @property
    def step_mode(self) -> str:
        """Step mode 's' or 'm', which ``functional.set_step_mode(model)`` sets with all others."""
        return self.forwards.step_mode

    @step_mode.setter
    def step_mode(self, mode: str) -> None:
        self.forwards.step_mode = mode
        self._mode_of_head = ""  # that of the head's layers was set as well

    def __setattr__(self, key: str, value: Any) -> None:
        """A head may be replaced, or put into something that wraps it."""
        super().__setattr__(key, value)
        if key == "head" and "takes_time" in self.__dict__:
            self._read_head()

    def _read_head(self) -> None:
        """Read off the head what it takes."""
        parameters = inspect.signature(self.head.forward).parameters
        self.takes_time = "with_time" in parameters
        self.sees_steps = not self.takes_time and has_step_mode(self.head)
        self._mode_of_head = ""

    def reset(self) -> None:
        """``functional.reset_net`` calls this: the next forward begins a new sequence."""
        self.forwards.reset()

    def extra_repr(self) -> str:
        """Channels and classes, for ``print(model)``."""
        return f"channels={self.channels}, num_classes={self.num_classes}"

    def _each_step(self, x: Tensor) -> Tensor:
        if self.sees_steps:
            return self._checked(self.head(x), (3,))
        logits = self._checked(self.head(x.flatten(0, 1)), (2,))
        return logits.reshape(*x.shape[:2], self.num_classes)

    def _checked(self, logits: Any, ndims: tuple[int, ...]) -> Tensor:
        is_tensor = isinstance(logits, Tensor)
        if is_tensor and logits.ndim in ndims and logits.shape[-1] == self.num_classes:
            return cast(Tensor, logits)
        due = " or ".join(f"[{'T, ' * (ndim - 2)}N, {self.num_classes}]" for ndim in ndims)
        raise ValueError(
            f"the head at '{self.name}' gave "
            f"{tuple(logits.shape) if is_tensor else type(logits).__name__} where logits {due} "
            "were due: mend what head=(channels, num_classes) returns."
        )
