"""The method: heads put into a model, their logits, the loss, and removal."""

__all__: list[str] = []
