"""The parts of train_cifar.py and train_dvs.py: copy this folder along with a script."""

from . import early  # before all that takes time to import

__all__ = [
    "building",
    "checkpoint",
    "early",
    "errors",
    "events",
    "finite",
    "flags",
    "folder",
    "images",
    "loading",
    "models",
    "processes",
    "reports",
    "settings",
    "sharding",
    "state",
    "stopping",
    "training",
]
