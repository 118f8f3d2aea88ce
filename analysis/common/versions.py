"""What a row was measured with: commit, libraries, processor or card."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

__all__ = ["library_commit", "made_with"]

ROOT = Path(__file__).resolve().parents[2]
CODE = ("sj_shortcut", "analysis/*.py", "analysis/**/*.py")


def library_commit() -> str:
    """The commit of this checkout, ``+changes`` if code was edited since; empty without Git."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", *CODE)
    except (OSError, subprocess.CalledProcessError):
        return ""
    # The letter keeps a table from reading digits alone as a number.
    return f"g{commit}" + ("+changes" if changed else "")


def made_with(device: torch.device) -> dict[str, str]:
    """Columns that say what a run was measured with."""
    return {
        "commit": library_commit(),
        "torch": str(torch.__version__),
        "spikingjelly": _version("spikingjelly"),
        "device": _device_name(device),
    }


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()})"
