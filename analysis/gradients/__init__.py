"""The paper's Fig. 2: how the first layer's gradients are distributed, with and without heads."""

__all__: list[str] = []
