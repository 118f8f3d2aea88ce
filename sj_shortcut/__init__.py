"""Shortcut back-propagation for SpikingJelly: train deep spiking networks by three lines.

The method is Guo et al., "Take A Shortcut Back: Mitigating the Gradient Vanishing for Training
Spiking Neural Networks" (NeurIPS 2024, arXiv 2401.04486).
"""

from sj_shortcut.access import (
    shortcut_branches,
    shortcut_logits,
    shortcut_parameters,
    shortcuts_enabled,
)
from sj_shortcut.backend import NeuronBackend, is_spiking_neuron, set_backend
from sj_shortcut.heads import ShortcutBranch, ShortcutHead
from sj_shortcut.loss import ShortcutLoss
from sj_shortcut.points import ShortcutPoint, shortcut_points
from sj_shortcut.schedule import ConstantSchedule, EvolutionarySchedule, ShortcutSchedule
from sj_shortcut.surgery import has_shortcuts, remove_shortcuts, wrap_with_shortcuts

__version__ = "0.1.0"

__all__ = [
    "ConstantSchedule",
    "EvolutionarySchedule",
    "NeuronBackend",
    "ShortcutBranch",
    "ShortcutHead",
    "ShortcutLoss",
    "ShortcutPoint",
    "ShortcutSchedule",
    "has_shortcuts",
    "is_spiking_neuron",
    "remove_shortcuts",
    "set_backend",
    "shortcut_branches",
    "shortcut_logits",
    "shortcut_parameters",
    "shortcut_points",
    "shortcuts_enabled",
    "wrap_with_shortcuts",
]
