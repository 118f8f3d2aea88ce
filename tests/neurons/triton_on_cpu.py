"""Runs SpikingJelly 2.0.0's Triton neurons on the CPU, in Triton's interpreter.

The kernels, what launches them and their autograd formulas are SpikingJelly's own. Only the check
for a GPU is left out, and the operator's entry for the CPU leads to them. That lasts until the
process ends, and TRITON_INTERPRET=1 must be set before Triton is imported: give it a process of its
own. What it cannot show: a compiled kernel, the GPU's rounding, half precision.
"""

import importlib
import os
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

LAUNCHED: list[str] = []
_LIBRARIES: list[torch.library.Library] = []  # a registration lasts as long as its library


class _TorchWithoutGpu:
    """PyTorch as the launching code sees it: nothing asks for a GPU."""

    cuda = SimpleNamespace(device=lambda device: nullcontext())

    @staticmethod
    def _check(condition: bool, message: object = None) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def install(kernel: str) -> None:
    """Have the neurons of a kernel, ``"if_"``, ``"lif"`` or ``"plif"``, run on Triton."""
    assert os.environ.get("TRITON_INTERPRET") == "1"
    package = f"spikingjelly._ops.{kernel}"
    launcher = importlib.import_module(f"{package}.triton")
    launcher.torch = _TorchWithoutGpu()
    name = f"sj_{kernel.rstrip('_')}"
    own = f"triton_{name}"
    library = torch.library.Library(own, "FRAGMENT")
    for direction, implementation in _implementations(launcher).items():
        schema = getattr(getattr(torch.ops, name), direction).default._schema
        library.define(str(schema).removeprefix(f"{name}::"))
        library.impl(direction, implementation, "CPU")
    autograd = importlib.import_module(f"{package}.autograd")
    autograd._register_ops(f"{own}::forward", f"{own}::backward", register_fake=False)
    entry = torch.library.Library(name, "IMPL")
    run = getattr(torch.ops, own).forward.default
    entry.impl("forward", run, "AutogradCPU", allow_override=True)
    _LIBRARIES.extend((library, entry))


def _implementations(launcher: ModuleType) -> dict[str, Callable[..., Any]]:
    def counted(direction: str, implementation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            LAUNCHED.append(direction)
            return implementation(*args, **kwargs)

        return run

    return {
        "forward": counted("forward", launcher._forward_impl),
        "backward": counted("backward", launcher._backward_impl),
    }
