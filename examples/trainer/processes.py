"""One process or several started by torchrun: the same results, up to rounding."""

from __future__ import annotations

import gc
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

# Before there is a group: DistributedDataParallel imports it, and its defaults keep what is there.
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from .errors import UserError

__all__ = ["World", "agree", "start", "stop", "synchronize_batch_norm"]


@dataclass
class World:
    """Which of how many processes this is, and its device."""

    rank: int
    size: int
    device: torch.device

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over all processes."""
        if self.size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values.cpu()

    def any(self, flag: bool | Tensor) -> bool:
        """Whether a flag is up in this or any other process; all of them must ask."""
        if self.size == 1:
            return bool(flag)
        return bool(self.sum(torch.as_tensor(flag).float().clone()) > 0)

    def gather(self, value: Any) -> list[Any]:
        """The value of each process, in order of rank."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def first(self, work: Callable[[], Any]) -> Any:
        """Do work in process 0 alone and then, as it has left its results, in the others."""
        result, failure = None, None
        if self.rank == 0:
            try:
                result = work()
            except UserError as error:
                failure = error
        if self.size > 1:
            failed = self.gather(failure is not None)[0]
            if self.rank > 0 and not failed:
                return work()
            if self.rank > 0:
                raise SystemExit(2)  # process 0 says why
        if failure is not None:
            raise failure
        return result

    def alone(self, work: Callable[[], None]) -> None:
        """Do work in process 0 only, and wait for it."""
        self.first(work if self.rank == 0 else lambda: None)


def start(device: str) -> World:
    """Join the other processes, if torchrun started this one, and settle the device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA GPU; use --device cpu or auto")
    cuda = device != "cpu" and torch.cuda.is_available()
    if not dist.is_torchelastic_launched():
        return World(0, 1, torch.device("cuda" if cuda else "cpu"))
    local = int(os.environ["LOCAL_RANK"])
    if cuda:
        if local >= torch.cuda.device_count():
            raise UserError(
                f"torchrun started more processes than the {torch.cuda.device_count()} GPUs here: "
                "lower --nproc-per-node, or pass --device cpu"
            )
        torch.cuda.set_device(local)
    store, rank, size = next(rendezvous("env://"))
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=PrefixStore(agree(store, rank, size), store), rank=rank, world_size=size,
    )  # fmt: skip
    return World(
        dist.get_rank(), dist.get_world_size(), torch.device(f"cuda:{local}" if cuda else "cpu")
    )


def agree(store: Store, rank: int, size: int) -> str:
    """A word that the processes of this start have in common, and with those of no other.

    torchrun keeps one store for all its restarts, with the addresses of processes now gone, and
    counts restarts on each machine by itself. So each process asks by a name of its own, and
    process 0 answers until it was heard.
    """
    mine = secrets.token_hex(8)
    if rank:
        store.set(f"asks {rank}", mine)
        word: str = store.get(f"answer to {mine}").decode()
        store.set(f"heard {word} {rank}", "yes")
        return word
    for other in range(1, size):
        while not store.check([f"heard {mine} {other}"]):
            asked = store.get(f"asks {other}").decode()  # perhaps by one that is gone
            store.set(f"answer to {asked}", mine)
            time.sleep(0.02)
    return mine


def stop() -> None:
    """Leave the other processes, and end gloo's threads.

    One that still holds an object of Python while the interpreter ends aborts the process
    (pytorch/pytorch#190489), so that nothing may keep the group.
    """
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()


class _SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over all processes; so what flows back is the sum over all, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


class _SyncedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the samples of all processes.

    torch.nn.SyncBatchNorm does not run on the CPU and knows no time axis. This one slips in
    between a batch norm of SpikingJelly, which folds time into the batch, and torch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.track_running_stats:
            return super().forward(x)
        check: Any = self._check_input_dim  # untyped in torch
        check(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
        wide = x.float()
        samples = x.numel() // x.shape[1] * dist.get_world_size()
        mean = _SumOverProcesses.apply(wide.sum(axes)) / samples
        centered = wide - mean.view(shape)
        variance = _SumOverProcesses.apply(centered.square().sum(axes)) / samples
        self._remember(mean.detach(), variance.detach() * samples / (samples - 1))
        y: Tensor = centered * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.num_batches_tracked is not None  # all three go with track_running_stats
        assert self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum or 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def synchronize_batch_norm(model: nn.Module) -> None:
    """Let every batch norm of a model see the samples of all processes."""
    for module in model.modules():
        kind = type(module)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            # The class has two parents; super().forward() of the first one reaches the second.
            module.__class__ = type(kind.__name__, (kind, _SyncedBatchNorm), {})
