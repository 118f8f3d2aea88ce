"""What shortcut heads, and the recording of gradients, cost in time and memory."""

__all__: list[str] = []
