"""Draw what was measured: a tidy frame in, a matplotlib Axes out.

Every function takes a frame (one row a measurement) and keyword options, draws into ``ax`` or into
a new figure of a paper's column width, and returns the Axes. None shows a figure, and none changes
matplotlib's settings. Font sizes are relative to ``rcParams["font.size"]``, so a style set by the
caller holds. Legends sit above the Axes, never on data; a figure's layout should be "constrained",
as that of a new figure is, for them to find room.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), which the colour-blind can tell
apart; lines differ by dashes and markers as well, for print in grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import Locator, MaxNLocator, NullLocator

__all__ = [
    "plot_gradient_coherence",
    "plot_gradient_flow",
    "plot_gradient_heatmap",
    "plot_gradient_sources",
    "plot_history",
    "plot_schedule",
]

Schedule = Callable[[float], float]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

# The width of a column in most two-column papers, in inches.
_COLUMN = (3.3, 2.5)
_TEXT, _SMALL, _TINY = "small", "x-small", "xx-small"
_LONGEST_NAME = 22

_LABELS = {
    "accuracy": "accuracy",
    "alive": "share of potentials alive",
    "coherence": "gradient coherence",
    "depth": "layer, in order of execution",
    "firing_rate": "firing rate",
    "grad_to_weight": "gradient norm / weight norm",
    "layer": "layer, in order of execution",
    "output_grad_norm": "gradient norm at spikes",
    "snr": "signal-to-noise ratio",
    "weight_grad_norm": "gradient norm",
    "weight_grad_rms": "gradient RMS",
    "weight_norm": "weight norm",
    "zero_fraction": "share of zero gradients",
}
# Columns that cannot tell runs apart.
_MEASURED = {
    *_LABELS,
    "batches",
    "coherence_floor",
    "module",
    "neuron",
    "share",
    "status",
    "weights",
}
_LOG_COLUMNS = ("grad_to_weight", "output_grad_norm", "snr", "weight_grad_norm", "weight_grad_rms")


def plot_gradient_flow(
    frame: pd.DataFrame,
    *,
    x: str = "depth",
    y: str = "weight_grad_norm",
    hue: str | None = "run",
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw how large each layer's gradient is, on a logarithmic axis.

    A gradient of exactly 0 has no place on such an axis: it is marked by a hollow triangle at the
    lower edge, and one that is missing (``None``) or not finite by a cross there; the line breaks
    at both. Several rows for one layer and ``hue`` (seeds, say) become their median, with a band
    from the smallest to the largest.

    Args:
        frame: As from ``gradient_flow`` or a ``GradientRecorder``. Layers that did not run have no
            depth and are left out.
        x: ``"depth"``, with layer names along the axis where all runs have the same; ``"layer"``,
            each name in a place of its own; or a number such as ``"epoch"``.
        y: The column to draw, any whose values are 0 or more.
        hue: The column that tells lines apart; ``None`` for a single line, as is the default where
            there is no column ``"run"``.
        legend: Whether to explain the lines above the Axes.
        ax: Where to draw; default a new figure.

    Returns:
        The Axes.

    Raises:
        TypeError: If ``frame`` is not a DataFrame.
        ValueError: If it is empty or lacks a column, if ``y`` has no number at all, or if the rows
            are split by source and ``hue`` is not ``"source"``.

    Example:
        >>> frame = pd.DataFrame({"layer": ["conv1", "conv2", "fc"], "depth": [0, 1, 2],
        ...                       "weight_grad_norm": [0.0, 2e-4, 3e-2]})
        >>> plot_gradient_flow(frame).get_yscale()
        'log'
    """
    return _lines(frame, x=x, y=y, hue=hue, legend=legend, ax=ax, log=True)


def plot_gradient_coherence(
    frame: pd.DataFrame,
    *,
    x: str = "depth",
    hue: str | None = "run",
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw whether the gradients of different batches agree, layer by layer.

    Coherence is the mean cosine between the gradients of two batches: 1 where all pull the same
    way, 0 where they are as unrelated as random directions. Where the frame tells what random
    directions reach (``coherence_floor``), that is shaded.

    Args:
        frame: As from ``gradient_flow`` over several batches.
        x: As for :func:`plot_gradient_flow`.
        hue: As for :func:`plot_gradient_flow`.
        legend: Whether to explain the lines above the Axes.
        ax: Where to draw; default a new figure.

    Returns:
        The Axes.

    Raises:
        TypeError: If ``frame`` is not a DataFrame.
        ValueError: If it is empty, lacks a column, or was measured on a single batch.

    Example:
        >>> frame = pd.DataFrame({"layer": ["conv1", "conv2", "fc"], "depth": [0, 1, 2],
        ...                       "coherence": [0.02, 0.1, 0.7], "run": "vanilla"})
        >>> plot_gradient_coherence(frame).get_ylabel()
        'gradient coherence'
    """
    hint = " Coherence takes several batches: gradient_flow(model, loss_fn, [batch, ...])."
    ax = _lines(frame, x=x, y="coherence", hue=hue, legend=legend, ax=ax, log=False, hint=hint)
    lowest = float(frame["coherence"].min())
    ax.set_ylim(min(-0.1, lowest - 0.05), 1.05)
    return ax


def plot_gradient_heatmap(
    frame: pd.DataFrame,
    *,
    column: str = "weight_grad_norm",
    x: str = "epoch",
    log: bool | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one column for every layer (downwards) and epoch (to the right) of a single run.

    Cells that are exactly 0 are white where the colours are logarithmic; cells without a finite
    number are hatched.

    Args:
        frame: As from a ``GradientRecorder`` whose ``step`` was given ``epoch=``.
        column: The column to colour by.
        x: The column that goes to the right, any that can be sorted. Its values stand at equal
            distances.
        log: Whether colours are logarithmic; default so for gradient norms and ratios of them.
        ax: Where to draw; default a new figure. The colour bar takes its room from it.

    Returns:
        The Axes of the map.

    Raises:
        TypeError: If ``frame`` is not a DataFrame.
        ValueError: If it is empty, lacks a column, has no number to colour, or has several numbers
            for one cell because it holds several runs.

    Example:
        >>> frame = pd.DataFrame({"layer": ["conv1", "fc"] * 2, "depth": [0, 1] * 2,
        ...                       "epoch": [0, 0, 1, 1], "firing_rate": [0.2, 0.1, 0.25, 0.2]})
        >>> ax = plot_gradient_heatmap(frame, column="firing_rate")
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['conv1', 'fc']
    """
    _check(frame, ["layer", "depth", x, column])
    _check_whole(frame, (x, column))
    cells = frame.drop_duplicates(["layer", x, column])
    _check_single(cells, ["layer", x], column)
    table = cells.pivot(index="layer", columns=x, values=column)
    table = table.reindex(_layer_order(frame)).astype(float)
    values = np.ma.masked_invalid(table.to_numpy())
    if values.count() == 0:
        raise ValueError(f"no row of the frame has a number in '{column}'.")
    log = column in _LOG_COLUMNS if log is None else log
    zeros = values.filled(1.0) <= 0 if log else np.zeros(values.shape, bool)
    shown = np.ma.masked_where(zeros, values)

    ax = _axes(ax, (_COLUMN[0], 3.0))
    # What is masked shows the background: hatched, with the zeros painted over.
    ax.patch.set(facecolor="0.9", edgecolor="0.6", hatch="/////")
    for row, place in np.argwhere(zeros):
        ax.add_patch(Rectangle((place - 0.5, row - 0.5), 1, 1, color="white", lw=0))
    low, high = (float(shown.min()), float(shown.max())) if shown.count() else (0.1, 1.0)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    edges = np.arange(-0.5, values.shape[1]), np.arange(-0.5, values.shape[0])
    norm = LogNorm(low, high) if log else Normalize(low, high)
    mesh = ax.pcolormesh(*edges, shown, cmap="cividis", norm=norm, rasterized=True)
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.03)
    bar.ax.tick_params(labelsize=_SMALL)
    bar.set_label(_label(column), fontsize=_TEXT)

    _style(ax, x, "layer")
    ax.set_ylim(values.shape[0] - 0.5, -0.5)
    _name_ticks(ax.yaxis, dict(enumerate(map(_short, table.index))))
    _name_ticks(ax.xaxis, dict(enumerate(map(str, table.columns))), size=_SMALL, upright=True)
    marks = []
    if zeros.any():
        marks.append(Patch(facecolor="white", edgecolor="0.6", lw=0.5, label="exactly 0"))
    if values.mask.any():
        marks.append(
            Patch(facecolor="0.9", edgecolor="0.6", lw=0, hatch="/////", label="none or NaN")
        )
    _legend(ax, marks)
    return ax


def plot_gradient_sources(
    frame: pd.DataFrame,
    *,
    x: str = "depth",
    y: str = "share",
    main: str = "main",
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw which part of each layer's gradient comes from the main loss, and which from each head.

    A bar a layer, divided by source. With ``y="share"`` parts are the sources' components along the
    whole gradient: they add up to 1, and one that pulls against the whole hangs below 0. With a
    norm as ``y``, parts are proportional to the norms, which says how loud each source is rather
    than how far it moves the layer. A layer whose gradient is exactly 0 has a hollow triangle
    instead of a bar, and one without numbers a cross.

    Args:
        frame: As from ``gradient_flow(..., by_source=True)``, of a single run.
        x: ``"depth"`` or ``"layer"``, as for :func:`plot_gradient_flow`.
        y: The column to divide bars by: ``"share"``, or a norm such as ``"weight_grad_norm"``.
        main: What the column ``source`` calls the main loss, drawn lowest and in grey.
        legend: Whether to explain the colours above the Axes.
        ax: Where to draw; default a new figure.

    Returns:
        The Axes.

    Raises:
        TypeError: If ``frame`` is not a DataFrame.
        ValueError: If it is empty, lacks a column, is not split by source, or holds several runs.

    Example:
        >>> frame = pd.DataFrame({"layer": ["conv1", "conv2"] * 2, "depth": [1, 2] * 2,
        ...                       "source": ["main", "main", "sn1", "sn1"],
        ...                       "share": [0.2, 1.0, 0.8, 0.0]})
        >>> ax = plot_gradient_sources(frame)
        >>> [float(bar.get_height()) for bar in ax.patches]
        [0.2, 1.0, 0.8, 0.0]
    """
    hint = " Split the gradient by its sources: gradient_flow(..., by_source=True)."
    _check(frame, ["layer", "depth", "source", x, y], hint)
    parts = frame.drop_duplicates(["layer", "source", y])
    _check_single(parts, ["layer", "source"], y)
    places, names = _places(parts, x)
    parts = parts.assign(_x=places).dropna(subset=["_x"])
    heads = [str(source) for source in parts["source"].unique() if source != main]
    sources = [main, *heads] if (parts["source"] == main).any() else heads
    table = _by_source(parts, y)[sources]
    gone = _by_source(parts, "weight_grad_norm" if "weight_grad_norm" in parts else y)
    zero = (gone.fillna(0.0) == 0).all(axis=1) & gone.notna().any(axis=1)
    missing = table.isna().all(axis=1) & ~zero
    if y != "share":
        table = table.div(table.sum(axis=1).where(~zero), axis=0)
    table = table.fillna(0.0)

    ax = _axes(ax)
    at = table.index.to_numpy(float)
    top, bottom = np.zeros(len(table)), np.zeros(len(table))
    colours = ["0.45"] * (main in sources) + _colours(len(heads), by_order=len(heads) > 4)
    for source, colour in zip(sources, colours, strict=True):
        share = table[source].to_numpy()
        base = np.where(share < 0, bottom, top)
        ax.bar(at, share, 1.0, base, color=colour, edgecolor="white", lw=0.3)
        top += share.clip(min=0)
        bottom += share.clip(max=0)
    marks = _edge_marks(ax, at[zero.to_numpy()], at[missing.to_numpy()], "black")
    if bottom.min() < 0:
        ax.axhline(0, color="black", lw=0.6)
    ax.set_ylim(1.05 * bottom.min(), max(1.0, 1.02 * top.max()))
    ax.margins(x=0.01)
    _style(ax, x, "share of gradient" if y == "share" else "share of norms")
    _name_ticks(ax.xaxis, names)
    if legend:
        patches = [
            Patch(color=colour, label="main loss" if source == main else source)
            for source, colour in zip(sources, colours, strict=True)
        ]
        _legend(ax, _thinned(patches, 6) + marks)
    return ax


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
    ax = _axes(ax, (_COLUMN[0], 2.0))
    whole = range(epochs)
    fine = np.linspace(0, epochs, 40 * epochs + 1) if epochs <= 100 else np.arange(epochs + 1.0)
    handles = []
    looks = _looks(list(schedules))
    for (name, one), look in zip(schedules.items(), looks, strict=True):
        ax.plot(fine, [one(float(e)) for e in fine], color=look.colour, ls=look.dashes, lw=1.2)
        if epochs <= 60:
            points = [one(epoch) for epoch in whole]
            ax.plot(whole, points, look.marker, color=look.colour, ms=2.5, lw=0)
        handles.append(look.handle(name))
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    _style(ax, "epoch", "balance coefficient λ")
    _legend(ax, handles if isinstance(schedule, Mapping) else [])
    return ax


def plot_history(
    frame: pd.DataFrame,
    *,
    x: str = "epoch",
    y: Sequence[str] = ("loss", "accuracy"),
    hue: str | None = "run",
    style: str | None = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw loss and accuracy over the epochs, one above the other.

    Several rows for one epoch and line (seeds, say) become their median, with a band from the
    smallest to the largest.

    Args:
        frame: One row an epoch and run, with the columns named by ``x`` and ``y``.
        x: The column that goes to the right.
        y: The columns to draw, each in a panel of its own. Those that the frame lacks are left out,
            as long as there is one.
        hue: The column that tells lines apart by colour; ``None`` for none, as is the default where
            there is no column ``"run"``.
        style: A column that tells lines of one colour apart by dashes, such as training and test.
        legend: Whether to explain the lines above the Axes.
        ax: Where to draw; default a new figure. It becomes the top panel, and the room is divided.

    Returns:
        The Axes of the top panel; the others are in ``ax.figure.axes``.

    Raises:
        TypeError: If ``frame`` is not a DataFrame.
        ValueError: If it is empty or lacks a column.

    Example:
        >>> frame = pd.DataFrame({"epoch": [0, 1, 2], "loss": [2.3, 1.1, 0.6],
        ...                       "accuracy": [0.1, 0.6, 0.8]})
        >>> len(plot_history(frame).figure.axes)
        2
    """
    drawn = [column for column in y if column in getattr(frame, "columns", ())] or list(y)
    hue = _optional_hue(frame, hue)
    _check(frame, [x, *drawn, *(name for name in (hue, style) if name is not None)])
    ax = _axes(ax, (_COLUMN[0], 1.1 + 1.2 * len(drawn)))
    panels = _split(ax, len(drawn))
    handles: list[Line2D] = []
    for panel, column in zip(panels, drawn, strict=True):
        handles = []
        lines = list(_groups(frame, hue))
        variants = list(_groups(frame, style))
        for (name, rows), look in zip(lines, _looks([name for name, _ in lines]), strict=True):
            if name is not None:
                handles.append(look.handle(str(name), dashes="-" if style else None))
            for i, (variant, _) in enumerate(variants):
                part = rows if style is None else rows[rows[style] == variant]
                dashes = look.dashes if style is None else _DASHES[i % len(_DASHES)]
                _summary_line(panel, part[x], part[column], look, dashes)
        if style is not None:
            handles += [
                Line2D([], [], color="0.3", lw=1.2, ls=_DASHES[i % len(_DASHES)], label=str(name))
                for i, (name, _) in enumerate(variants)
            ]
        _style(panel, x, _label(column))
        panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        panel.label_outer()
    if legend:
        _legend(panels[0], handles)
    return ax


# What the line plots share.


@dataclass(frozen=True)
class _Look:
    """Colour, dashes and marker of a line."""

    colour: Any
    dashes: str
    marker: str

    def handle(self, label: str, dashes: str | None = None) -> Line2D:
        look = {"color": self.colour, "ls": dashes or self.dashes, "marker": self.marker}
        return Line2D([], [], lw=1.2, ms=3, label=label, **look)


def _lines(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    hue: str | None,
    legend: bool,
    ax: Axes | None,
    log: bool,
    hint: str = "",
) -> Axes:
    hue = _optional_hue(frame, hue)
    needed = ["layer", "depth"] if x in ("depth", "layer") else [x]
    _check(frame, [*needed, y, *([] if hue is None else [hue])], hint)
    _check_whole(frame, (x, hue))
    if not frame[y].notna().any():
        raise ValueError(f"no row of the frame has a number in '{y}'.{hint}")
    if x in ("depth", "layer"):
        places, names = _places(frame, x)
    else:
        places, names = frame[x], {}
    frame = frame.assign(_x=places)

    ax = _axes(ax)
    if log:
        ax.set_yscale("log")
    elif "coherence_floor" in frame and y == "coherence":
        floor = frame.groupby("_x")["coherence_floor"].max()
        if names:
            ax.bar(floor.index, 2 * floor, 1.0, -floor, color="0.8", lw=0)
        else:
            ax.fill_between(floor.index, -floor, floor, color="0.8", lw=0)
    handles: list[Any] = []
    lines = list(_groups(frame, hue))
    ordered = _in_order([name for name, _ in lines])
    looks = _looks([name for name, _ in lines])
    zeros, gaps = [], []
    for (name, rows), look in zip(lines, looks, strict=True):
        zero, gap = _summary_line(ax, rows["_x"], rows[y], look, look.dashes, log)
        zeros.append(zero)
        gaps.append(gap)
        if name is not None:
            handles.append(look.handle(str(name)))
    handles = _thinned(handles, 5) if len(handles) > len(_COLOURS) or ordered else handles
    if log:
        _leave_room_below(ax, any(map(len, (*zeros, *gaps))))
    elif "coherence_floor" in frame and y == "coherence":
        handles.append(Patch(color="0.8", label="random directions"))
    marks: dict[str, Line2D] = {}
    for look, zero, gap in zip(looks, zeros, gaps, strict=True):
        marks |= {str(m.get_label()): m for m in _edge_marks(ax, zero, gap, look.colour)}
    _style(ax, x, _label(y))
    _name_ticks(ax.xaxis, names)
    if legend:
        _legend(ax, handles + list(marks.values()), _label(hue) if hue and ordered else "")
    return ax


def _summary_line(
    ax: Axes, x: pd.Series[Any], y: pd.Series[Any], look: _Look, dashes: str, log: bool = False
) -> tuple[Any, Any]:
    """Draw the median and the range of ``y``; return where it is 0 on a log axis, and missing."""
    values = pd.to_numeric(y).astype(float).replace([np.inf, -np.inf], np.nan)
    groups = values.groupby(x.to_numpy())
    middle, low, high = groups.median(), groups.min(), groups.max()
    at = middle.index.to_numpy()
    missing = middle.isna().to_numpy()
    zero = (middle <= 0).to_numpy() if log else np.zeros(len(at), bool)
    line = middle.mask(zero)
    few = len(at) <= 60
    ax.plot(
        at,
        line,
        color=look.colour,
        ls=dashes,
        marker=look.marker if few else None,
        ms=3.0 if len(at) <= 24 else 2.0,
        lw=1.2,
        zorder=3,
    )
    if groups.size().max() > 1:
        least = line.where(low <= 0, low) if log else low
        ax.fill_between(at, least, high.mask(zero), color=look.colour, alpha=0.2, lw=0)
    return at[zero], at[missing]


def _leave_room_below(ax: Axes, marked: bool) -> None:
    """Keep the lower edge of a log axis free for marks, and the axis itself sane."""
    if ax.dataLim.height == 0 or not math.isfinite(ax.dataLim.height):
        ax.set_ylim(1e-6, 1)
    if marked:
        low, high = ax.get_ylim()
        ax.set_ylim(low / (high / low) ** 0.12, high)


def _edge_marks(ax: Axes, zeros: Any, gaps: Any, colour: Any) -> list[Line2D]:
    """Mark places at the lower edge; return what explains the marks, in neutral colour."""
    handles = []
    for at, marker, label in ((zeros, "v", "exactly 0"), (gaps, "x", "none or NaN")):
        if not len(at):
            continue
        look: dict[str, Any] = {"marker": marker, "ls": "", "ms": 3.5, "mew": 0.8, "mfc": "none"}
        edge = ax.get_xaxis_transform()
        ax.plot(at, [0.03] * len(at), color=colour, transform=edge, zorder=4, **look)
        handles.append(Line2D([], [], color="0.3", label=label, **look))
    return handles


# Frames.


def _check(frame: pd.DataFrame, columns: Iterable[str], hint: str = "") -> None:
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"frame must be a pandas DataFrame, got {type(frame).__name__}.")
    missing = [f"'{column}'" for column in columns if column not in frame.columns]
    if missing:
        present = ", ".join(map(str, frame.columns)) or "none"
        raise ValueError(
            f"the frame has no column {' and '.join(dict.fromkeys(missing))}; its columns are: "
            f"{present}.{hint}"
        )
    if frame.empty:
        raise ValueError("the frame is empty: there is nothing to draw.")


def _optional_hue(frame: Any, hue: str | None) -> str | None:
    """The default hue is one that a frame need not have."""
    return None if hue == "run" and hue not in getattr(frame, "columns", ()) else hue


def _check_whole(frame: pd.DataFrame, asked: Iterable[str | None]) -> None:
    """Parts of a gradient must not be drawn as if they were several gradients."""
    if "source" in frame and "source" not in asked and frame["source"].nunique() > 1:
        raise ValueError(
            "the frame is split by source, and its rows are parts of gradients: draw it with "
            'plot_gradient_sources, tell the parts apart by hue="source", or choose one of them, '
            'as in frame[frame.source == "main"].'
        )


def _by_source(parts: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row a place and one column a source; what is not finite is missing."""
    table = parts.pivot(index="_x", columns="source", values=column).sort_index()
    return table.astype(float).replace([np.inf, -np.inf], np.nan)


def _check_single(frame: pd.DataFrame, keys: list[str], column: str) -> None:
    twice = frame[frame.duplicated(keys, keep=False)]
    if twice.empty:
        return
    first = twice[(twice[keys] == twice[keys].iloc[0]).all(axis=1)]
    tags = [c for c in frame.columns if c not in _MEASURED and first[c].nunique() > 1]
    where = ", ".join(f"{key} {first[key].iloc[0]!r}" for key in keys)
    which = f" They differ in {', '.join(map(str, tags))}: choose one of each." if tags else ""
    raise ValueError(f"the frame has {len(first)} values of '{column}' for {where}.{which}")


def _groups(frame: pd.DataFrame, by: str | None) -> Iterable[tuple[Any, pd.DataFrame]]:
    if by is None:
        return [(None, frame)]
    levels = frame[by].dropna().unique().tolist()
    if pd.api.types.is_numeric_dtype(frame[by]):
        levels = sorted(levels)
    return [(level, frame[frame[by] == level]) for level in levels]


def _layer_order(frame: pd.DataFrame) -> list[str]:
    order = frame.groupby("layer", sort=False)["depth"].min().sort_values(kind="stable")
    return order.index.tolist()


def _places(frame: pd.DataFrame, x: str) -> tuple[pd.Series[Any], dict[float, str]]:
    """Where each row stands along the axis, and the names of these places."""
    if x == "layer":
        order = _layer_order(frame)
        ranks = {layer: place for place, layer in enumerate(order)}
        return frame["layer"].map(ranks), dict(enumerate(map(_short, order)))
    named = frame.dropna(subset=["depth"]).groupby("depth")["layer"]
    depths = [float(depth) for depth in named.first().index]
    if (named.nunique() == 1).all():
        return frame["depth"], dict(zip(depths, map(_short, named.first()), strict=True))
    return frame["depth"], {depth: f"{depth:g}" for depth in depths}


# Axes.


def _axes(ax: Axes | None, size: tuple[float, float] = _COLUMN) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=size, layout="constrained")
    return figure.add_subplot()


def _split(ax: Axes, count: int) -> list[Axes]:
    """Divide the room of an Axes into panels with one x axis; it becomes the top one."""
    figure, spec = ax.get_figure(), ax.get_subplotspec()
    assert figure is not None
    if count == 1:
        return [ax]
    if spec is not None:
        grid = spec.subgridspec(count, 1, hspace=0.08)
        ax.set_subplotspec(grid[0])
        return [ax, *(figure.add_subplot(grid[i], sharex=ax) for i in range(1, count))]
    left, bottom, width, height = ax.get_position().bounds
    step = height / count
    rooms = [(left, bottom + height - (i + 1) * step, width, 0.9 * step) for i in range(count)]
    ax.set_position(rooms[0])
    return [ax, *(figure.add_axes(room, sharex=ax) for room in rooms[1:])]


def _style(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(_label(x), fontsize=_TEXT)
    ax.set_ylabel(_label(y), fontsize=_TEXT)
    ax.tick_params(which="both", labelsize=_SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    if not ax.collections or ax.lines:
        ax.grid(axis="y", color="0.92", lw=0.6)


def _label(column: str) -> str:
    return _LABELS.get(column, column.replace("_", " "))


def _short(name: object) -> str:
    """Layer names are told apart by their ends."""
    text = str(name)
    return text if len(text) <= _LONGEST_NAME else "…" + text[1 - _LONGEST_NAME :]


def _looks(levels: list[Any]) -> list[_Look]:
    ordered = _in_order(levels)
    return [
        _Look(colour, _DASHES[i % len(_DASHES)], _MARKERS[i % len(_MARKERS)])
        if not ordered
        else _Look(colour, "-", "o")
        for i, colour in enumerate(_colours(len(levels), by_order=ordered))
    ]


def _in_order(levels: list[Any]) -> bool:
    """Whether levels are numbers enough for a scale of colours to say more than distinct ones."""
    return len(levels) > 3 and all(
        isinstance(level, int | float) and not isinstance(level, bool) for level in levels
    )


def _colours(count: int, by_order: bool) -> list[Any]:
    """Colours to tell apart, or where the order matters, a scale from dark to bright."""
    if not by_order:
        return [_COLOURS[i % len(_COLOURS)] for i in range(count)]
    return [mpl.colormaps["viridis"](0.92 * i / max(count - 1, 1)) for i in range(count)]


def _thinned(handles: list[Any], most: int) -> list[Any]:
    """At most so many legend entries of an ordered scale, its ends among them."""
    if len(handles) <= most:
        return handles
    return [handles[round(i)] for i in np.linspace(0, len(handles) - 1, most)]


def _legend(ax: Axes, handles: Sequence[Any], title: str = "") -> None:
    """Explain above the Axes, in as many columns as fit."""
    if not handles:
        return
    size = FontProperties(size=_SMALL).get_size_in_points()
    widths = [size * (0.5 * len(str(handle.get_label())) + 3.5) for handle in handles]
    room = 1.05 * _points(ax, "x")  # the Axes grows a little when its figure is laid out
    count = len(handles)
    columns = next(
        columns
        for columns in range(count, 0, -1)
        if sum(_widest_of_columns(widths, columns)) <= room or columns == 1
    )
    legend = ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        fontsize=_SMALL,
        handlelength=2.0,
        handletextpad=0.5,
        columnspacing=1.0,
        borderaxespad=0.2,
        title=title or None,
        title_fontsize=_SMALL,
    )
    legend.set_alignment("left")


def _widest_of_columns(widths: Sequence[float], columns: int) -> list[float]:
    """Width of each column, filled one after the other as matplotlib does."""
    return [max(part) for part in np.array_split(np.asarray(widths), columns)]


def _points(ax: Axes, direction: Literal["x", "y"]) -> float:
    """Length of an axis in points."""
    figure = ax.get_figure()
    box = ax.get_window_extent()
    pixels = box.width if direction == "x" else box.height
    return 72.0 * float(pixels) / (figure.dpi if figure is not None else 72.0)


class _SparseTicks(Locator):
    """Ticks at given places, of which it leaves out as many as the labels need.

    It looks at the axis at every drawing, so that it follows the figure's size.
    """

    def __init__(self, places: Sequence[float], room: float) -> None:
        self.places = np.asarray(sorted(places))
        self.room = room  # of one label, in points

    def __call__(self) -> Any:
        assert self.axis is not None
        direction = self.axis.axis_name  # type: ignore[union-attr]
        length = _points(self.axis.axes, direction)  # type: ignore[union-attr]
        low, high = sorted(self.axis.get_view_interval())
        places = self.places
        if len(places) < 2 or high <= low:
            return places
        # Steps are counted in places, which are about evenly apart.
        apart = length * (places[-1] - places[0]) / (high - low) / (len(places) - 1)
        step = max(1, math.ceil(self.room / max(apart, 1e-9)))
        chosen = list(range(0, len(places), step))
        last = len(places) - 1
        if chosen[-1] != last:  # the last layer is always named
            chosen = [i for i in chosen if i == 0 or last - i >= step] + [last]
        return places[chosen]

    def tick_values(self, vmin: float, vmax: float) -> Any:
        return self.places


def _name_ticks(
    axis: Any, names: Mapping[float, str], size: str = _TINY, upright: bool = False
) -> None:
    """Write names along an axis, as many as fit, sideways on the x axis unless they are short."""
    if not names:
        axis.set_major_locator(MaxNLocator("auto", integer=True))
        return
    points = FontProperties(size=size).get_size_in_points()
    longest = max(map(len, names.values()))
    across = axis.axis_name == "x"
    sideways = across and not upright and longest > 2
    room = 1.25 * points if sideways or not across else (0.7 * longest + 0.6) * points
    axis.set_major_locator(_SparseTicks(list(names), room))
    axis.set_major_formatter(lambda place, _: names.get(float(place), ""))
    axis.set_minor_locator(NullLocator())
    axis.set_tick_params(labelsize=size, rotation=90 if sideways else 0)
