from pathlib import Path
from typing import Any

from sj_shortcut.torch_model.ranks import gather_objects, is_distributed, rank, world_size
from tests.ranks import on_ranks


def test_one_process() -> None:
    own = {"batches": 3}
    assert (is_distributed(), rank(), world_size()) == (False, 0, 1)
    assert gather_objects(own)[0] is own


def seen(number: int) -> Any:
    return [is_distributed(), rank(), world_size(), gather_objects({"rank": number})]


def test_two_processes(tmp_path: Path) -> None:
    everyone = [{"rank": 0}, {"rank": 1}]
    assert on_ranks(seen, tmp_path) == [[True, 0, 2, everyone], [True, 1, 2, everyone]]
