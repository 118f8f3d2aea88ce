"""The balance coefficient over the epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sj_shortcut.plots.axes import COLUMN, new_axes, set_style
from sj_shortcut.plots.legends import add_legend
from sj_shortcut.plots.looks import looks_of

__all__ = ["plot_schedule"]

Schedule = Callable[[float], float]


def plot_schedule(
    schedule: Schedule | Mapping[str, Schedule], epochs: int, *, ax: Axes | None = None
) -> Axes:
    """Draw the balance coefficient over the epochs, for one schedule or several.

    Markers are the epochs that training uses, 0 to ``epochs - 1``; the line between them is λ at
    fractions of an epoch.

    Args:
        schedule: The schedule, or several by the name to show. They are called, not stepped.
        epochs: Epochs of the training.
        ax: Where to draw; default a new figure.

    Returns:
        The Axes.

    Raises:
        TypeError: If a schedule cannot be called, or ``epochs`` is not an int.
        ValueError: If there is no schedule, or ``epochs`` is less than 1.

    Example:
        >>> from sj_shortcut import ConstantSchedule, EvolutionarySchedule
        >>> ax = plot_schedule({"constant": ConstantSchedule(0.5),
        ...                     "falling": EvolutionarySchedule(20, "cosine")}, epochs=20)
        >>> ax.get_xlabel()
        'epoch'
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int):
        raise TypeError(f"epochs must be an int, got {type(epochs).__name__}.")
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}.")
    schedules = dict(schedule) if isinstance(schedule, Mapping) else {"": schedule}
    if not schedules:
        raise ValueError("there is no schedule to draw: the mapping is empty.")
    for name, one in schedules.items():
        if not callable(one):
            raise TypeError(f"schedule {name!r} must be callable, got {type(one).__name__}.")
    ax = new_axes(ax, (COLUMN[0], 2.0))
    whole = range(epochs)
    fine = np.linspace(0, epochs, 40 * epochs + 1) if epochs <= 100 else np.arange(epochs + 1.0)
    handles = []
    looks = looks_of(list(schedules))
    for (name, one), look in zip(schedules.items(), looks, strict=True):
        ax.plot(fine, [one(float(e)) for e in fine], color=look.colour, ls=look.dashes, lw=1.2)
        if epochs <= 60:
            points = [one(epoch) for epoch in whole]
            ax.plot(whole, points, look.marker, color=look.colour, ms=2.5, lw=0)
        handles.append(look.handle(name))
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    set_style(ax, "epoch", "balance coefficient λ")
    add_legend(ax, handles if isinstance(schedule, Mapping) else [])
    return ax
