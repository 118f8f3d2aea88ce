"""What the default shortcut head computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sj_shortcut.places import ShortcutPoint
from sj_shortcut.shortcuts.pooling import average, cells

__all__ = ["HeadFactory", "ShortcutHead", "check_grid", "default_grid"]

HeadFactory = Callable[[int, int], nn.Module]

# The grids that default heads choose from, finest first.
_GRIDS = (4, 2, 1)
# All heads together may add so much to the parameters of the model.
_BUDGET = 0.1


class ShortcutHead(nn.Module):
    """The default head: average over time and over parts of space, then one linear layer.

    With a ``grid`` of 1 this is the shortcut branch of Guo et al., "Take A Shortcut Back" (NeurIPS
    2024, section 4.2): global average pooling and one linear layer. Whether it averages over time
    the paper does not say. Averaging commutes with the linear layer, so averaging first costs
    O(N C K) instead of O(T N C K).

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
        >>> import torch
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
        check_grid(grid)
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
            features = average(x, range(first, x.ndim), time)
        else:
            features = cells(x, first, self.grid, time)
        logits: Tensor = self.linear(features)
        return logits

    def extra_repr(self) -> str:
        """The grid, for ``print(model)``."""
        return f"grid={self.grid}" if self.grid > 1 else ""


def check_grid(grid: object) -> None:
    """Refuse what is no number of parts.

    Raises:
        ValueError: If ``grid`` is less than 1, or no whole number.
    """
    if isinstance(grid, bool) or not isinstance(grid, int) or grid < 1:
        raise ValueError(f"grid must be a whole number of at least 1, got {grid!r}.")


def default_grid(model: nn.Module, points: Iterable[ShortcutPoint], num_classes: int) -> int:
    """The finest grid with which all heads together add at most a tenth to a model's parameters.

    Args:
        model: The model, without heads.
        points: Where the heads will sit.
        num_classes: Number of classes K.

    Returns:
        The grid of heads over features with space; 1 where no grid is within the budget.
    """
    points = list(points)
    own = sum(p.numel() for p in model.parameters() if not is_lazy(p))

    def added(grid: int) -> int:
        parts = [grid * grid if point.spatial else 1 for point in points]
        widths = [point.channels or 0 for point in points]
        return sum(c * n + 1 for c, n in zip(widths, parts, strict=True)) * num_classes

    return next((grid for grid in _GRIDS if added(grid) <= _BUDGET * own), 1)
