"""Draw a frame: a tidy frame in, a matplotlib Axes out."""

from sj_shortcut.plots.coherence import plot_gradient_coherence
from sj_shortcut.plots.flow import plot_gradient_flow
from sj_shortcut.plots.heatmap import plot_gradient_heatmap
from sj_shortcut.plots.histogram import plot_gradient_histogram
from sj_shortcut.plots.history import plot_history
from sj_shortcut.plots.schedule import plot_schedule
from sj_shortcut.plots.sources import plot_gradient_sources
from sj_shortcut.plots.spikes import plot_spikes

__all__ = [
    "plot_gradient_coherence",
    "plot_gradient_flow",
    "plot_gradient_heatmap",
    "plot_gradient_histogram",
    "plot_gradient_sources",
    "plot_history",
    "plot_schedule",
    "plot_spikes",
]
