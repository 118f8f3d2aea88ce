"""Every recipe of docs/recipes.md runs; test_interop_trainers.py looks at two of them closer."""

import pytest
import torch
import torch.distributed as dist
from spikingjelly.activation_based import base

from sj_shortcut import has_shortcuts
from tests import recipes
from tests.nets.small import skip_unless_neurons_compile
from tests.ranks import NO_FSDP2

SECOND_GENERATION = hasattr(base, "to_functional_forward")
TITLES = [title for title in recipes.SECTIONS if recipes.blocks(title) and title != "Recipes"]
# Under which name a recipe ends with a model without heads.
FREED = {
    "Lightning": "model",
    "Accelerate": "model",
    "DistributedDataParallel": "model",
    "FSDP2": "model",
    "Average of the weights": "deployed",
    "PEFT": "model",
    "Export": "model",
    "NIR (SpikingJelly 2.0.0)": "model",
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.filterwarnings(
    "error:.*shortcut",
    "ignore:.*LeafSpec.* is deprecated",
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning",
    "ignore:The tensor attribute.* assigned during export",
    "ignore:While compiling, we found certain side effects",
)
def test_recipe_runs(title):
    if "(SpikingJelly 2.0.0)" in title and not SECOND_GENERATION:
        pytest.skip("needs SpikingJelly 2.0.0")
    if title in ("Compiled code", "Export"):
        skip_unless_neurons_compile()
    if title == "PEFT":
        pytest.importorskip("peft", reason="pip install peft, which is large, to run this recipe")
    if title == "FSDP2" and NO_FSDP2:
        pytest.skip(NO_FSDP2)
    if title in ("DistributedDataParallel", "FSDP2"):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    torch.manual_seed(0)
    namespace = recipes.run(title)
    if title in FREED:
        model = namespace[FREED[title]]
        assert not has_shortcuts(model)
        assert list(model.state_dict()) == list(namespace["Net"]().state_dict())
    if "loss" in namespace:
        assert namespace["loss"].isfinite()


def test_all_recipes_were_found():
    assert set(FREED) < set(TITLES)
    assert len(TITLES) == 12
