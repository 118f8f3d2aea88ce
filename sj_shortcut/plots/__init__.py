"""Draw a frame: a tidy frame in, a matplotlib Axes out.

Every function takes a frame (one row a measurement) and keyword options, draws into ``ax`` or into
a new figure of a paper's column width, and returns the Axes. None shows a figure, and none changes
matplotlib's settings. Font sizes are relative to ``rcParams["font.size"]``, so a style set by the
caller holds. Legends sit above the Axes, never on data; a figure's layout should be "constrained",
as that of a new figure is, for them to find room.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), which the colour-blind can tell
apart; lines differ by dashes and markers as well, for print in grey.
"""

from sj_shortcut.plots.coherence import plot_gradient_coherence
from sj_shortcut.plots.flow import plot_gradient_flow
from sj_shortcut.plots.heatmap import plot_gradient_heatmap
from sj_shortcut.plots.history import plot_history
from sj_shortcut.plots.schedule import plot_schedule
from sj_shortcut.plots.sources import plot_gradient_sources

__all__ = [
    "plot_gradient_coherence",
    "plot_gradient_flow",
    "plot_gradient_heatmap",
    "plot_gradient_sources",
    "plot_history",
    "plot_schedule",
]
