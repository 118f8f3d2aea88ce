"""More of this in tests/gradients/test_flow.py, where whole models run."""

import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sj_shortcut.torch_model.preserve import preserved


class Counting(nn.Module):
    """Keeps things in every place where a module can keep things."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("inplace", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("shared", self.inplace)
        self.register_buffer("nothing", None)
        self.calls = 0

    def forward(self) -> None:
        self.calls += 1
        self.inplace += 1
        self.replaced = self.replaced + 1
        self.nothing = torch.ones(1)
        self.new = 3
        assert self.shared is self.inplace


@pytest.mark.parametrize("failing", [False, True])
def test_everything_comes_back(failing: bool) -> None:
    module = nn.Sequential(Counting(), nn.Dropout())
    inner = module[0]
    held = inner.inplace, inner.replaced
    random = torch.get_rng_state()
    try:
        with preserved(module, inner):
            module.eval()
            inner()
            torch.rand(3)
            if failing:
                raise KeyError
    except KeyError:
        assert failing
    assert inner.calls == 0 and not hasattr(inner, "new") and inner.nothing is None
    assert inner.inplace is held[0] is inner.shared and inner.replaced is held[1]
    assert all(buffer.sum() == 0 and buffer._version == 0 for buffer in held)
    assert module.training and module[1].training
    assert torch.equal(torch.get_rng_state(), random)


def changed(name: str, kept: Any) -> None:
    """Change the content of a container in every way there is, leaving it the same object."""
    if isinstance(kept, dict):
        kept.pop("b")
        kept["a"] = torch.zeros(1)
        kept["b"] = "came again, and last"
        kept[name] = "new"
    elif isinstance(kept, set):
        kept.discard(1)
        kept.add(name)
    else:
        kept.pop()
        kept[0] = "overwritten"
        kept.extend([name, name])


CONTAINERS: dict[str, Any] = {
    "list": lambda: [1, 2, torch.ones(2)],
    "dict": lambda: {"a": torch.ones(2), "b": 2, "c": 3},
    "defaultdict": lambda: defaultdict(list, a=torch.ones(2), b=2, c=3),
    "ordered dict": lambda: OrderedDict(a=torch.ones(2), b=2, c=3),
    "counter": lambda: Counter(a=torch.ones(2), b=2, c=3),
    "set": lambda: {1, 2, "three"},
    "deque": lambda: deque([1, 2, torch.ones(2)], maxlen=4),
}


def content(kept: Any) -> list[Any]:
    items = kept.items() if isinstance(kept, dict) else kept
    return [part for item in items for part in (item if isinstance(item, tuple) else (item,))]


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("nesting", ["attribute", "in a list", "in a dict", "in a tuple"])
@pytest.mark.parametrize("failing", [False, True])
def test_the_content_of_containers_comes_back(kind: str, nesting: str, failing: bool) -> None:
    kept = CONTAINERS[kind]()
    outer = {"attribute": kept, "in a list": [kept], "in a dict": {1: kept}, "in a tuple": (kept,)}
    module = nn.Identity()
    module.seen = outer[nesting]
    before, size = content(kept), len(kept)
    try:
        with preserved(nn.Sequential(module)):
            changed("new", kept)
            assert content(kept) != before
            if nesting in ("in a list", "in a dict"):
                module.seen.clear()
            if failing:
                raise KeyError
    except KeyError:
        assert failing
    assert module.seen is outer[nesting]
    assert module.seen is kept or len(module.seen) == 1
    inner = next(iter(module.seen.values() if nesting == "in a dict" else module.seen))
    assert (module.seen if nesting == "attribute" else inner) is kept
    assert type(kept) is type(CONTAINERS[kind]()) and len(kept) == size
    if isinstance(kept, set):
        assert kept == set(before)
    else:
        assert all(a is b for a, b in zip(content(kept), before, strict=True))
    if isinstance(kept, deque):
        assert kept.maxlen == 4


def test_a_model_that_takes_notes_has_none_afterwards() -> None:
    class Noting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[int, ...]] = []
            self.by_size: dict[int, list[Any]] = {}
            self.last: deque[Any] = deque(maxlen=2)
            self.sizes: set[int] = set()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(tuple(x.shape))
            self.by_size.setdefault(len(x), []).append(x)
            self.last.append(x)
            self.sizes.add(len(x))
            return x

    model = Noting()
    model(torch.zeros(3))
    with preserved(model):
        model(torch.zeros(3))
        model(torch.zeros(4))
        assert len(model.seen) == 3 and len(model.by_size[3]) == 2
    assert model.seen == [(3,)] and model.sizes == {3}
    assert list(model.by_size) == [3] and len(model.by_size[3]) == 1 and len(model.last) == 1


def test_a_container_that_holds_itself() -> None:
    module = nn.Identity()
    module.knot = knot = [1]
    knot.append(knot)
    with preserved(module):
        knot.insert(0, 0)
    assert knot[0] == 1 and knot[1] is knot and len(knot) == 2


def test_what_did_not_change_is_not_written() -> None:
    class Frozen(dict[str, int]):
        def update(self, *args: Any, **kwargs: Any) -> None:
            raise TypeError("this dict is not to be written")

        clear = __setitem__ = __delitem__ = update

    module = nn.Identity()
    module.options = options = Frozen(a=1)
    with preserved(module):
        module.options = None
    assert module.options is options and options == {"a": 1}


def test_a_module_made_inside_is_gone() -> None:
    class Lazy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not hasattr(self, "late"):
                self.late = nn.Linear(x.shape[-1], 2)
            y: torch.Tensor = self.late(x)
            return y

    model = Lazy()
    with preserved(model):
        model(torch.zeros(1, 3))
    assert not list(model.children())


def test_spikingjelly_is_not_needed() -> None:
    # The package imports it, so what this module needs is asked of its file alone.
    code = (
        "import importlib.util, sys; from pathlib import Path; "
        f"spec = importlib.util.spec_from_file_location('preserve', {preserved_file()!r}); "
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); "
        "sys.exit('spikingjelly' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def preserved_file() -> str:
    file = sys.modules[preserved.__module__].__file__
    assert file is not None
    return file


def lazy_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.LazyConv2d(3, 2), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))


def test_lazy_modules_stay_lazy() -> None:
    model, twin, x = lazy_net(), lazy_net(), torch.rand(4, 2, 3, 3)
    before = [*model.parameters(), *model.buffers()]
    with preserved(model):
        model(x)
        assert model[0].in_channels == 2
    assert [type(module) for module in model] == [type(module) for module in twin]
    now = [*model.parameters(), *model.buffers()]
    assert all(a is b for a, b in zip(now, before, strict=True))
    assert all(is_lazy(tensor) for tensor in model.parameters()) and is_lazy(model[1].running_mean)
    # As if it had never run: it still draws its weights when the first batch comes.
    for net in (model, twin):
        torch.manual_seed(1)
        net(x)
    assert type(model[3]) is nn.Linear and model[3].in_features == 12
    for name, tensor in twin.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
