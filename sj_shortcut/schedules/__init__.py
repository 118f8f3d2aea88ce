"""The balance coefficient λ over a training."""

from sj_shortcut.schedules.base import ShortcutSchedule
from sj_shortcut.schedules.constant import ConstantSchedule
from sj_shortcut.schedules.evolutionary import EvolutionarySchedule, Shape
from sj_shortcut.schedules.handover import HandoverSchedule
from sj_shortcut.schedules.trained import Trained

__all__ = [
    "ConstantSchedule",
    "EvolutionarySchedule",
    "HandoverSchedule",
    "Shape",
    "ShortcutSchedule",
    "Trained",
]
