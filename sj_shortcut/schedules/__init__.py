"""The balance coefficient λ over a training."""
