"""Read from a device without waiting for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Later"]


class Later:
    """A small tensor that is read once its device has got there.

    Args:
        value: Any tensor.

    Example:
        >>> later = Later(torch.tensor([True, False]))
        >>> later.read()
        array([ True, False])
    """

    def __init__(self, value: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._value: Tensor | None = value.detach()
        if not value.is_cuda:
            return
        if torch.cuda.is_current_stream_capturing():
            self._value = None
            return
        self._value = torch.empty(value.shape, dtype=value.dtype, device="cpu", pin_memory=True)
        self._value.copy_(value.detach(), non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(value.device))

    def read(self) -> np.ndarray[Any, Any] | None:
        """The values as an array; ``None`` as long as the device has not got there."""
        if self._event is not None:
            if torch.cuda.is_current_stream_capturing() or not self._event.query():
                return None
        return None if self._value is None else self._value.numpy()
