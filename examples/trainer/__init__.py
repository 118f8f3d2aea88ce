"""The parts of train_cifar.py and train_dvs.py: copy this folder along with a script."""

__all__ = [
    "building",
    "checkpoint",
    "errors",
    "events",
    "flags",
    "images",
    "loading",
    "models",
    "processes",
    "reports",
    "settings",
    "training",
]
