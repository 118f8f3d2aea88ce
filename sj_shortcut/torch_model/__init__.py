"""What PyTorch hides of a model: its state, wrappers, processes, and norms of its tensors."""
