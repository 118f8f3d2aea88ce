"""Ctrl-C while the modules are imported, and until the training begins: one line, no traceback."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

__all__ = ["end_in_one_line"]


def end_in_one_line(number: int, frame: Any) -> None:
    sys.stderr.write("stopped while nothing was trained\n")
    sys.stderr.flush()
    os._exit(128 + number)


# In the scripts beside this folder alone, and not where somebody imports its parts.
script = getattr(sys.modules["__main__"], "__file__", None)
if (
    script is not None
    and Path(script).resolve().parent == Path(__file__).resolve().parent.parent
    and threading.current_thread() is threading.main_thread()
):
    signal.signal(signal.SIGINT, end_in_one_line)
