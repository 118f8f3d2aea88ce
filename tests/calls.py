"""Count calls of Python: what does not depend on the speed of a machine."""

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any


def calls_in(function: Callable[[], Any]) -> Counter[str]:
    """How often each function of Python or C was called while another ran, by its name."""
    counts: Counter[str] = Counter()

    def note(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            counts[frame.f_code.co_qualname] += 1
        elif event == "c_call":
            counts[arg.__qualname__] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return counts
