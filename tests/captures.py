"""A CUDA graph without a GPU: operations are noted as they run, and can run again as they are."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Capture(TorchDispatchMode):
    """What runs inside is captured, forward and backward; ``replay`` runs no Python of it again.

    As of a CUDA graph, all that a replay sees is what the memory holds then: an input changes only
    if it is written to in place, and results lie where they lay.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tape: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.overloadpacket is torch.ops.aten._local_scalar_dense:
            raise RuntimeError("operation not permitted when stream is capturing")
        found = function(*args, **kwargs)
        self._tape.append((function, args, kwargs, found))
        return found

    def replay(self) -> None:
        with torch._C._AutoDispatchBelowAutograd(), torch.no_grad():
            for function, args, kwargs, found in self._tape:
                again = function(*args, **kwargs)
                for old, new in zip(tensors(found), tensors(again), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.detach().copy_(new)


def tensors(found: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]


class StaticGraph:
    """As ``StaticCudaGraph`` of SpikingJelly 2: some calls to warm up, a capture, replays."""

    def __init__(self, function: Callable[..., Any], capturing: Any, warmup: int = 3) -> None:
        self.function, self.capturing, self.left = function, capturing, warmup
        self.replays = 0
        self.capture: Capture | None = None

    def __call__(self, *inputs: Tensor) -> Any:
        if self.left:
            self.left -= 1
            return self.function(*inputs)
        if self.capture is None:
            self.inputs = [x.clone() for x in inputs]
            self.capture = Capture()
            with self.capturing(), self.capture:
                self.outputs = self.function(*self.inputs)
            return self.outputs
        if any(a.shape != b.shape for a, b in zip(inputs, self.inputs, strict=True)):
            return self.function(*inputs)
        for kept, new in zip(self.inputs, inputs, strict=True):
            kept.copy_(new)
        self.capture.replay()
        self.replays += 1
        return self.outputs


@contextmanager
def capturing_on_cpu() -> Iterator[None]:
    """Inside, the package takes what runs for captured."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("sj_shortcut.") and hasattr(module, "is_captured"):
                patch.setattr(module, "is_captured", lambda tensor: True)
        yield
