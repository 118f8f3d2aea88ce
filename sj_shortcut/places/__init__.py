"""Where shortcut heads can sit in a model, and which of these places `at=` means."""

from sj_shortcut.places.at import At, choose_points
from sj_shortcut.places.example_pass import WEIGHT_LAYERS
from sj_shortcut.places.layout import Layout, check_layout, layout_for, parse_layout
from sj_shortcut.places.looking import Look, look_at, steps_in_one_call
from sj_shortcut.places.point import ShortcutPoint, ShortcutPoints
from sj_shortcut.places.points import LayoutArgument, list_points, shortcut_points

__all__ = [
    "WEIGHT_LAYERS",
    "At",
    "Layout",
    "LayoutArgument",
    "Look",
    "ShortcutPoint",
    "ShortcutPoints",
    "check_layout",
    "choose_points",
    "layout_for",
    "list_points",
    "look_at",
    "parse_layout",
    "shortcut_points",
    "steps_in_one_call",
]
