"""Which heads ``fully_shard`` leaves without weights between forward and backward."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from sj_shortcut.torch_model.sharding import is_sharded, lost_its_weights
from tests.ranks import NO_FSDP2, on_ranks


class Model(nn.Module):
    """Two stages, each with a branch beside its way to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(2, 4))
        self.first.branch = nn.Linear(4, 3)
        self.second = nn.Sequential(nn.Linear(4, 4))
        self.second.branch = nn.Linear(4, 3)


def test_in_one_process_nothing_is_sharded() -> None:
    model = Model()
    assert not any(is_sharded(module) for module in model.modules())
    assert not lost_its_weights(model, "first.branch")


def test_asking_does_not_import_fsdp() -> None:
    code = (
        "import sys; from torch import nn; from sj_shortcut.torch_model.sharding import is_sharded;"
        "assert not is_sharded(nn.Linear(1, 1)); assert 'torch.distributed.fsdp' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def lost(rank: int) -> Any:
    from torch.distributed.fsdp import fully_shard

    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
    model = Model()
    seen = {"before": (is_sharded(model.first), lost_its_weights(model, "first.branch"))}
    fully_shard(model.first, mesh=mesh)  # the branch in the group of its stage
    fully_shard(model.second.branch, mesh=mesh)  # in one of its own
    fully_shard(model.second, mesh=mesh)
    seen["stage"] = (is_sharded(model.first), lost_its_weights(model, "first.branch"))
    seen["own"] = (is_sharded(model.second.branch), lost_its_weights(model, "second.branch"))
    model.first.unshard()  # as between a forward and a backward without resharding
    seen["gathered"] = (is_sharded(model.first), lost_its_weights(model, "first.branch"))
    seen["rank"] = rank
    return seen


@pytest.mark.skipif(bool(NO_FSDP2), reason=NO_FSDP2)
def test_a_branch_in_the_group_of_a_module_around_it_is_without_weights(tmp_path: Path) -> None:
    due = {
        "before": (False, False),
        "stage": (True, True),
        "own": (True, False),
        "gathered": (True, False),
    }
    assert on_ranks(lost, tmp_path) == [{**due, "rank": rank} for rank in range(2)]
    assert not torch.distributed.is_initialized()
