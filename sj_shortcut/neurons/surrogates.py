"""Count the membrane potentials at which a surrogate function still passes gradient on."""

from __future__ import annotations

import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor, nn

__all__ = ["AliveCounter", "surrogate_derivative"]

# Their derivative falls with the distance from the threshold, on both sides alike.
_FALLING = (
    "ATan",
    "Erf",
    "PiecewiseExp",
    "PiecewiseQuadratic",
    "QPseudoSpike",
    "Rect",
    "Sigmoid",
    "SoftSign",
    "SuperSpike",
)
_FAR = 1e4
# Below this, rounding makes the two sides of a derivative unlike.
_SMALL = 1e-3
_GRID = 1025


class AliveCounter:
    """Counts where the derivative of a surrogate function is above a threshold.

    For SpikingJelly's bell-shaped surrogates that is an interval around 0, whose ends are found
    once; others are differentiated at every potential, which costs three times as much.

    Args:
        threshold: The derivative from which on a potential is alive.

    Example:
        >>> from spikingjelly.activation_based import surrogate
        >>> counter = AliveCounter(0.5)
        >>> counter(surrogate.ATan(), torch.tensor([-9.0, -0.1, 0.2, 0.9])).item()
        2.0
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._radii: dict[object, float | None] = {}

    def __call__(
        self,
        function: nn.Module,
        x: Tensor,
        axes: tuple[int, ...] | None = None,
        overwrite: bool = False,
    ) -> Tensor:
        """Number of alive entries of ``x``, the input of ``function``, summed over ``axes``.

        Args:
            function: The surrogate function.
            x: What it is called with, the membrane potential less the threshold voltage.
            axes: The axes to sum over, ``None`` for all.
            overwrite: Whether ``x`` may be overwritten.

        Returns:
            The counts, as floating-point numbers.
        """
        with torch.no_grad():
            radius = self._radius(function)
            if radius is None:
                alive = surrogate_derivative(function, x) > self.threshold
                return alive.sum(axes, dtype=torch.float32)
            # All in floating point: comparisons that give booleans are slow on CPUs.
            distance = x.abs_() if overwrite else x.abs()
            dead = distance.sub_(radius).sign_().clamp_(min=0)
            total = x.numel() if axes is None else x[0].numel()
            return total - dead.sum(axes, dtype=torch.float32)

    def _radius(self, function: nn.Module) -> float | None:
        """Largest distance from 0 that is alive, negative if none is; ``None`` if not known."""
        if self.threshold < _SMALL:
            return None
        name = type(function).__name__
        own = type(function).__module__ == surrogate.__name__
        if not own or name not in _FALLING or not getattr(function, "spiking", True):
            return None
        if [*function.parameters(), *function.buffers()]:
            return None  # it may change while it is used
        parameters = {k: v for k, v in vars(function).items() if not k.startswith("_")}
        if not all(isinstance(value, float | int) for value in parameters.values()):
            return None
        key = (name, *sorted(parameters.items()))
        if key not in self._radii:
            self._radii[key] = self._find_radius(function)
        return self._radii[key]

    def _find_radius(self, function: nn.Module) -> float | None:
        near, far = 0.0, _FAR
        ends = surrogate_derivative(function, torch.tensor([near, far])) > self.threshold
        if not ends[0]:
            return -1.0
        if ends[1]:
            return None
        while True:  # until there is no number of single precision in between
            grid = torch.linspace(near, far, _GRID)
            alive = int((surrogate_derivative(function, grid) > self.threshold).sum())
            narrowed = grid[alive - 1].item(), grid[min(alive, _GRID - 1)].item()
            if narrowed == (near, far):
                return near
            near, far = narrowed


def surrogate_derivative(function: nn.Module, x: Tensor) -> Tensor:
    """Derivative of a surrogate function at ``x``, as its own backward pass gives it."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        spikes = function.forward(leaf)  # not the call, which would run hooks
        if not spikes.requires_grad:
            return torch.zeros_like(leaf)
        return torch.autograd.grad(spikes, leaf, torch.ones_like(spikes))[0]
