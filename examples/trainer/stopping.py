"""Asked to stop: the first signal ends the training after a checkpoint, a second one at once."""

from __future__ import annotations

import signal
from typing import Any

from .processes import World

__all__ = ["Stop"]

# Ctrl-C, what systems send before they kill, and what SLURM can be told to send before its limit.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
    if hasattr(signal, name)
]


class Stop:
    """Turns the first signal into a question that the loop asks; a second one kills."""

    def __init__(self, world: World) -> None:
        self.world, self.signal = world, 0

    def __enter__(self) -> Stop:
        # What is ignored stays so: `nohup` does that to SIGHUP.
        asked = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self.before = {number: signal.signal(number, self.note) for number in asked}
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: Any) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)

    def requested(self) -> bool:
        """Whether this or any other process is asked to stop; all of them must ask."""
        return self.world.any(self.signal != 0)
