import importlib.util
import os
import sys

# Before anything imports them, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from importlib.metadata import version
from pathlib import Path

import hypothesis
import pytest
import torch

# Doctests are looked for in every file, and this one needs the CUDA code of 0.0.0.0.14.
has_cuda_code = importlib.util.find_spec("spikingjelly.activation_based.auto_cuda")
collect_ignore = [] if has_cuda_code else ["neurons/cupy_on_cpu.py"]

# The suite is spread over processes, and small tensors gain nothing from threads.
torch.set_num_threads(1)

HERE = Path(__file__).parent


def _but(room: str, *stems: str) -> tuple[str, ...]:
    """All files of a room but some."""
    return tuple(p.name for p in (HERE / room).glob("test_*.py") if p.stem not in stems)


# What is the same on both generations of SpikingJelly is tested on one; each name but these.
ON_ONE = {
    "plots": (),
    "schedules": (),
    "studies": ("common", "gpu", "zoo"),
    "examples": (
        "test_existing_code.py", "test_models.py", "test_paper_recipe.py", "test_quickstart.py",
        "test_train_cifar.py", "test_train_dvs.py",
    ),
    "behaviour": _but("behaviour", "test_architecture", "test_make", "test_package"),
    "interop": _but("interop", "test_many_gpus"),
}  # fmt: skip
# So is step mode 's' of these files, which are long; others test it on both.
IN_ONE_MODE = ("test_zoo.py", "test_compiled.py")

NEW = version("spikingjelly").startswith("2")

# Fewer where they are drawn a second time.
examples = 20 if NEW else 10
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=examples)
hypothesis.settings.register_profile("deep", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def _no_code_compiled_by_other_tests() -> None:
    """Dynamo does not notice hooks: it would run what it compiled for an unwrapped model."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def pytest_collectstart() -> None:
    """Weights in the parameters of tests are drawn now: the same, whichever tests are asked for."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if NEW:
        return
    for item in items:
        if item.path.is_relative_to(HERE):
            room, *inside = item.path.relative_to(HERE).parts
            left_out = room in ON_ONE and not set(ON_ONE[room]) & set(inside)
            if left_out or (item.path.name in IN_ONE_MODE and item.name.endswith("-s]")):
                item.add_marker(pytest.mark.skip(reason="is tested on SpikingJelly 2 alone"))


def pytest_report_header() -> str:
    return f"torch {torch.__version__}, spikingjelly {version('spikingjelly')}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; torch.cuda.is_available() is False")
