"""Several processes that form one group, each doing its part of a test."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# The reason why FSDP2 cannot run without a GPU here; empty if it can. PyTorch 2.6 asks the stream
# of a CPU for what only that of a GPU has.
if not dist.is_gloo_available():
    NO_FSDP2 = "PyTorch lacks gloo"
elif not hasattr(torch.cpu.Stream, "record_event"):
    NO_FSDP2 = "FSDP2 of this PyTorch runs on GPUs only"
else:
    NO_FSDP2 = ""


def on_ranks(work: Callable[[int], Any], folder: Path, count: int = 2) -> list[Any]:
    """What ``work(rank)`` returns in each of ``count`` processes connected by gloo."""
    mp.spawn(_one_rank, args=(work, str(folder), count), nprocs=count)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(count)]


def _one_rank(rank: int, work: Callable[[int], Any], folder: str, count: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=count
    )
    torch.save(work(rank), f"{folder}/rank{rank}.pt")
    dist.barrier()
    # Not by destroying the group: where another process has ended already, PyTorch 2.6 waits there
    # for ever. Nor by an ordinary end: caches of DDP and FSDP keep the group and with it gloo's
    # threads, and one of these that lets go of an object of Python while the interpreter ends
    # aborts (pytorch/pytorch#190489).
    os._exit(0)
