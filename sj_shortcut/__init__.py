"""Shortcut back-propagation for SpikingJelly: train deep spiking networks by three lines.

The method is Guo et al., "Take A Shortcut Back: Mitigating the Gradient Vanishing for Training
Spiking Neural Networks" (NeurIPS 2024, arXiv 2401.04486).
"""

from typing import TYPE_CHECKING, Any

from sj_shortcut.gradients import (
    GradientRecorder,
    every_steps,
    gradient_flow,
    gradient_histogram,
    log_spaced_steps,
    summarize,
)
from sj_shortcut.logs.logger import ShortcutLogger
from sj_shortcut.neurons.backend import NeuronBackend, set_backend
from sj_shortcut.neurons.families import is_spiking_neuron
from sj_shortcut.places import ShortcutPoint, shortcut_points
from sj_shortcut.price import SpikePrice, remove_price
from sj_shortcut.schedules.base import ShortcutSchedule
from sj_shortcut.schedules.constant import ConstantSchedule
from sj_shortcut.schedules.evolutionary import EvolutionarySchedule
from sj_shortcut.schedules.handover import HandoverSchedule
from sj_shortcut.shortcuts.access import (
    shortcut_branches,
    shortcut_logits,
    shortcut_parameters,
    shortcuts_enabled,
)
from sj_shortcut.shortcuts.branch import ShortcutBranch
from sj_shortcut.shortcuts.checkpoints import without_shortcuts
from sj_shortcut.shortcuts.head import ShortcutHead
from sj_shortcut.shortcuts.hooks import has_shortcuts
from sj_shortcut.shortcuts.loss import ShortcutLoss
from sj_shortcut.shortcuts.paper import evolutionary_training, shortcut_backpropagation
from sj_shortcut.shortcuts.wrap import remove_shortcuts, wrap_with_shortcuts
from sj_shortcut.spikes import compare_spikes, spike_report
from sj_shortcut.torch_model.warnings import ShortcutWarning

if TYPE_CHECKING:
    from sj_shortcut.plots import (
        plot_gradient_coherence,
        plot_gradient_flow,
        plot_gradient_heatmap,
        plot_gradient_histogram,
        plot_gradient_sources,
        plot_history,
        plot_schedule,
        plot_spikes,
    )

__version__ = "0.1.0"

__all__ = [
    "ConstantSchedule",
    "EvolutionarySchedule",
    "GradientRecorder",
    "HandoverSchedule",
    "NeuronBackend",
    "ShortcutBranch",
    "ShortcutHead",
    "ShortcutLogger",
    "ShortcutLoss",
    "ShortcutPoint",
    "ShortcutSchedule",
    "ShortcutWarning",
    "SpikePrice",
    "compare_spikes",
    "every_steps",
    "evolutionary_training",
    "gradient_flow",
    "gradient_histogram",
    "has_shortcuts",
    "is_spiking_neuron",
    "log_spaced_steps",
    "plot_gradient_coherence",
    "plot_gradient_flow",
    "plot_gradient_heatmap",
    "plot_gradient_histogram",
    "plot_gradient_sources",
    "plot_history",
    "plot_schedule",
    "plot_spikes",
    "remove_price",
    "remove_shortcuts",
    "set_backend",
    "shortcut_backpropagation",
    "shortcut_branches",
    "shortcut_logits",
    "shortcut_parameters",
    "shortcut_points",
    "shortcuts_enabled",
    "spike_report",
    "summarize",
    "without_shortcuts",
    "wrap_with_shortcuts",
]


def __getattr__(name: str) -> Any:
    """Import the plot functions when they are asked for: matplotlib takes a while."""
    if name.startswith("plot_") and name in __all__:
        from sj_shortcut import plots

        return getattr(plots, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, those that were not asked for yet included, and Python's own."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
