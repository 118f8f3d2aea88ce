"""The paper's two claims, tested on its own kind of network."""

__all__: list[str] = []
