"""Follow a training: its numbers into a CSV file, TensorBoard, or anything that takes them."""

from sj_shortcut.logs.logger import ShortcutLogger
from sj_shortcut.logs.scalars import shortcut_scalars

__all__ = ["ShortcutLogger", "shortcut_scalars"]
