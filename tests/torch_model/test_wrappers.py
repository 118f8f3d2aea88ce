from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sj_shortcut.torch_model.wrappers import bare_model, find_compiled, is_compiled
from tests.ranks import on_ranks


def test_a_bare_model_is_itself() -> None:
    model = nn.Linear(2, 2)
    assert bare_model(model) == (model, None)


def test_a_compiled_model() -> None:
    model = nn.Linear(2, 2)
    compiled = torch.compile(model, backend="eager")
    assert bare_model(compiled) == (model, compiled)
    assert is_compiled(compiled) and not is_compiled(model)


def test_a_model_compiled_in_place_is_its_own_bare_model() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    assert find_compiled(model) is None
    model[1].compile(backend="eager")
    assert bare_model(model) == (model, None)
    assert not is_compiled(model) and is_compiled(model[1]) and find_compiled(model) == "1"
    model.compile(backend="eager")
    assert find_compiled(model) == ""


def test_a_compiled_part() -> None:
    model = nn.Sequential(nn.ReLU(), torch.compile(nn.Linear(2, 2), backend="eager"))
    assert find_compiled(model) == "1"


def test_a_scripted_model_is_not_called_compiled() -> None:
    assert find_compiled(torch.jit.script(nn.Sequential(nn.ReLU()))) is None


def test_data_parallel_is_refused() -> None:
    with pytest.raises(TypeError, match="use torch.nn.parallel.DistributedDataParallel"):
        bare_model(nn.DataParallel(nn.Linear(2, 2)))


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got int"):
        bare_model(3)


def unwrapped(rank: int) -> Any:
    model = nn.Linear(2, 2)
    outer = torch.compile(DistributedDataParallel(model), backend="eager")
    inner = DistributedDataParallel(torch.compile(model, backend="eager"))
    return [
        bare_model(outer)[0] is model and bare_model(outer)[1] is outer,
        bare_model(inner)[0] is model and bare_model(inner)[1] is inner.module,
    ]


def test_distributed_models(tmp_path: Path) -> None:
    assert on_ranks(unwrapped, tmp_path, count=1) == [[True, True]]
