"""What a shortcut head computes, and the memory in which its logits wait for the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from spikingjelly.activation_based import base, functional
from torch import Tensor, nn

HeadFactory = Callable[[int, int], nn.Module]


class ShortcutHead(nn.Module):
    """The default head: average over time and over parts of space, then one linear layer.

    With a ``grid`` of 1 and the average over time, this is the shortcut branch of Guo et al.,
    "Take A Shortcut Back" (NeurIPS 2024), as we read it. Averaging commutes with the linear layer,
    so averaging first costs O(N C K) instead of O(T N C K).

    Parts of space are ours: of the map, each of grid x grid parts is averaged by itself. A shallow
    layer then need not make its channels tell the classes wherever in the image they see
    something, which costs the network accuracy; see ``analysis/ablation/results``.

    Args:
        channels: Channels C of the features.
        num_classes: Number of classes K.
        grid: Parts along height and along width; 1 for features ``[N, C]``, which have neither.

    Raises:
        ValueError: If ``grid`` is less than 1.

    Example:
        >>> head = ShortcutHead(64, 10)
        >>> head(torch.rand(2, 64, 8, 8)).shape
        torch.Size([2, 10])
        >>> from functools import partial
        >>> from spikingjelly.activation_based import layer, neuron
        >>> from sj_shortcut import wrap_with_shortcuts
        >>> model = nn.Sequential(layer.Conv2d(1, 4, 3), neuron.LIFNode(), layer.Conv2d(4, 8, 3),
        ...                       neuron.LIFNode(), layer.Flatten(), layer.Linear(128, 10))
        >>> model = wrap_with_shortcuts(model, head=partial(ShortcutHead, grid=1))
    """

    def __init__(self, channels: int, num_classes: int, grid: int = 2) -> None:
        super().__init__()
        if isinstance(grid, bool) or not isinstance(grid, int) or grid < 1:
            raise ValueError(f"grid must be a whole number of at least 1, got {grid!r}.")
        self.grid = grid
        self.linear = nn.Linear(channels * grid * grid, num_classes)

    def forward(self, x: Tensor, with_time: bool = False) -> Tensor:
        """Logits ``[N, K]`` of features.

        Args:
            x: ``[N, C]``, ``[N, C, L]``, ``[N, C, H, W]`` or ``[N, C, D, H, W]``.
            with_time: Whether ``x`` has a time axis before these, to be averaged over as well.
        """
        first, time = (3, (0,)) if with_time else (2, ())
        if self.grid == 1:
            # Space before time reads the features once, and writes nothing of their size.
            features = _average(x, range(first, x.ndim), time)
        else:
            features = _cells(x, first, self.grid, time)
        logits: Tensor = self.linear(features)
        return logits

    def extra_repr(self) -> str:
        """The grid, for ``print(model)``."""
        return f"grid={self.grid}" if self.grid > 1 else ""


class ShortcutBranch(base.MemoryModule):
    """Feeds a tapped output to a head and keeps the logits until the loss asks for them.

    The logits are a memory in SpikingJelly's sense: ``functional.reset_net`` clears them. In step
    mode 's' (and for a point that a container calls once a step) they gather over the calls,
    which ``steps`` counts from the second on.

    A head made of ordinary layers sees ``[N, C, ...]``: in mode 'm' the features averaged over
    time; in mode 's' those of each step, after which its logits are averaged (the same, if the
    head is linear). One that holds SpikingJelly modules with a step mode sees every step:
    ``[T, N, C, ...]`` in mode 'm', ``[N, C, ...]`` a call in mode 's'.

    Args:
        name: Dotted path of the tapped module.
        head: The head.
        channels: Channels C of the features.
        num_classes: Number of classes K.
        loop: Dotted path of a container around the point that calls it once a time step.

    Attributes:
        per_step: Keep the logits of every time step instead of their average.
        always_on: Run in eval mode and without gradients too.
        joined: Whether the model's output depends on the logits yet.
        used: Whether a loss has used the logits.
        blocked: Whether the point was last reached in training mode without gradients.
        tapped: The tapped output and its version, until the model's forward ends.
        before: ``total`` and ``steps`` before the last call, until the model's forward ends.
    """

    total: Tensor | None
    steps: Tensor | None

    def __init__(
        self, name: str, head: nn.Module, channels: int, num_classes: int, loop: str | None = None
    ) -> None:
        super().__init__()
        self.name = name
        self.head = head
        self.channels = channels
        self.num_classes = num_classes
        self.loop = loop
        self.per_step = False
        self.always_on = False
        # Reset values None, not zeros: 2.0.0 restores tensor memories in place, and these may
        # still be needed by a backward pass to come.
        self.register_memory("total", None)
        self.register_memory("steps", None)
        self._clear_flags()

    def _clear_flags(self) -> None:
        self.joined = self.used = self.blocked = False
        self.tapped: tuple[Tensor, int] | None = None
        self.before: tuple[Tensor | None, Tensor | None] = (None, None)

    @property
    def active(self) -> bool:
        """Whether a forward pass would feed the head now."""
        return self.always_on or (self.training and torch.is_grad_enabled())

    @property
    def logits(self) -> Tensor | None:
        """Logits ``[N, K]`` so far, averaged over time; ``None`` before a forward pass."""
        if self.total is None:
            return None
        if self.per_step:
            return self.total.mean(0)
        return self.total if self.steps is None else self.total / self.steps

    @property
    def step_logits(self) -> Tensor | None:
        """Logits ``[T, N, K]`` of every time step so far, kept if ``per_step`` is set."""
        return self.total if self.per_step else None

    def reset(self) -> None:
        """Forget the logits; ``functional.reset_net`` calls this."""
        super().reset()
        self._clear_flags()

    def detach(self) -> None:
        """Keep the logits in the graph when ``functional.detach_net`` cuts the neurons' memories.

        They are an output, and a loss may still want their gradient, as that of the model's own.
        """

    def multi_step_forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Logits ``[N, K]`` (``[T, N, K]`` if per step) of features ``[T, N, C, ...]``."""
        self._check_features(x, "[T, N, C, ...]", axis=2)
        if type(self.head) is ShortcutHead and not self.per_step:
            return self._checked(self.head(x, with_time=True), (2,))
        if self._sees_every_step():
            logits = self._checked(self.head(x), (3,) if self.per_step else (2, 3))
            return logits if self.per_step or logits.ndim == 2 else logits.mean(0)
        if self.per_step:
            logits = self._checked(self.head(x.flatten(0, 1)), (2,))
            return logits.reshape(*x.shape[:2], self.num_classes)
        return self._checked(self.head(_average(x, (0,))), (2,))

    def single_step_forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Logits ``[N, K]`` (``[1, N, K]`` if per step) of features ``[N, C, ...]``."""
        self._check_features(x, "[N, C, ...]", axis=1)
        logits = self._checked(self.head(x), (2,))
        return logits.unsqueeze(0) if self.per_step else logits

    def keep(self, logits: Tensor) -> None:
        """Add the logits of one call to the memory."""
        self.before = (self.total, self.steps)
        if self.total is None:
            self.total = logits
        else:
            self._check_batch_size(self.total, logits)
            self.total = torch.cat([self.total, logits]) if self.per_step else self.total + logits
            steps = torch.ones((), device=logits.device) if self.steps is None else self.steps
            self.steps = steps + 1
        self.joined = self.blocked = False

    def roll_back(self) -> None:
        """Drop the logits of the last call: the model's forward failed after it."""
        self.total, self.steps = self.before
        self.before, self.tapped = (None, None), None
        self.joined = self.total is not None

    def follow(self, step_mode: str) -> None:
        """Take over the step mode of the tapped module."""
        if self.step_mode != step_mode:
            functional.set_step_mode(self, step_mode)

    def extra_repr(self) -> str:
        """Channels and classes, for ``print(model)``."""
        return f"channels={self.channels}, num_classes={self.num_classes}"

    def _sees_every_step(self) -> bool:
        return any(isinstance(module, base.StepModule) for module in self.head.modules())

    def _check_features(self, x: Tensor, layout: str, axis: int) -> None:
        if x.ndim > axis and x.shape[axis] == self.channels:
            return
        raise ValueError(
            f"the shortcut head at '{self.name}' was made for {self.channels} channels, in "
            f"{layout} with step mode '{self.step_mode}', but its point gave {tuple(x.shape)}. "
            "Where the modules do not tell the channels, pass example_input= to "
            "wrap_with_shortcuts; where the step mode is wrong, call functional.set_step_mode."
        )

    def _check_batch_size(self, total: Tensor, logits: Tensor) -> None:
        if total.shape[-2] != logits.shape[-2]:  # which would add up if one of them is 1
            raise RuntimeError(
                f"the batch size at '{self.name}' changed from {total.shape[-2]} to "
                f"{logits.shape[-2]} between two time steps of step mode 's', which gather until a "
                "loss has used them: call functional.reset_net(model) before a new batch."
            )

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

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles start without logits: tensors inside a graph cannot be copied.
        state = self.__dict__.copy()
        state["_memories"] = dict(self._memories_rv)
        state["tapped"], state["before"] = None, (None, None)
        return state


def _cells(x: Tensor, first: int, grid: int, time: Sequence[int]) -> Tensor:
    """Averages over time and parts of space, which begins at axis ``first``: ``[N, C * parts]``."""
    space = x.ndim - first
    if space == 0:  # a map of one pixel is all parts alike
        x = _average(x, time)
        return x.unsqueeze(-1).expand(*x.shape, grid * grid).flatten(-2)
    if space == 1:  # as many parts, side by side
        parts = nn.functional.adaptive_avg_pool1d(x.flatten(0, first - 2), grid * grid)
        return _average(parts.reshape(*x.shape[: first - 1], -1), time)
    x = _average(x, range(first, x.ndim - 2))
    height, width = x.shape[-2:]
    if height % grid or width % grid:
        parts = nn.functional.adaptive_avg_pool2d(x.flatten(0, first - 2), grid)
        return _average(parts.reshape(*x.shape[: first - 1], -1), time)
    # Time first: the gradient of parts of space is no view, and so is written once for all steps.
    # Rows before columns, as sums along what lies side by side in memory are quick.
    total = x.sum(tuple(time), dtype=_wide(x)) if time else x
    rows = total.unflatten(-2, (grid, -1)).sum(-2, dtype=_wide(x))
    parts = rows.unflatten(-1, (grid, -1)).sum(-1)
    count = (x.shape[0] if time else 1) * (height // grid) * (width // grid)
    averages: Tensor = (parts / count).to(x.dtype)
    return averages.flatten(-3)


def _average(x: Tensor, *axes: Sequence[int]) -> Tensor:
    """Mean over ``axes``, one group after the other, as sums scaled in the end.

    The backward pass of a sum is a view; that of a mean writes a tensor of the size of ``x``.
    """
    total, count = x, 1
    for group in axes:
        if group:  # a sum over no axis would be one over all
            for axis in group:
                count *= total.shape[axis]
            total = total.sum(tuple(group), dtype=_wide(x))
    return x if total is x else (total / count).to(x.dtype)


def _wide(x: Tensor) -> torch.dtype | None:
    """The dtype to sum in: in half precision a sum over a large map overflows."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else None
