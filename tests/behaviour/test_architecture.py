"""The rooms of the package: who may import whom, and what every file keeps to.

``python -m tests.behaviour.test_architecture`` prints the imports between rooms as a table.
"""

import ast
import importlib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import sj_shortcut

NAME = "sj_shortcut"
PACKAGE = Path(sj_shortcut.__file__).parent
TESTS = Path(__file__).parents[1]

# From the top down: each may import those after it.
ROOMS = (
    "plots",
    "spikes",
    "logs",
    "gradients",
    "shortcuts",
    "price",
    "schedules",
    "places",
    "neurons",
    "torch_model",
)
# Of other rooms, plots may read these alone: what is drawn comes in a frame.
READ_BY_PLOTS = (f"{NAME}.gradients.columns", f"{NAME}.spikes.columns")
WITH_SPIKINGJELLY = ("neurons",)
MOST_LINES = 350


class Import(NamedTuple):
    """One import statement's name: ``target`` is a module, ``name`` what is taken from it."""

    line: int
    target: str
    name: str = ""


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_in(source: str, module: str, is_package: bool = False) -> Iterator[Import]:
    """Every import of a module, wherever it stands: at the top, in functions, for types only."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            target = node.module or ""
            if node.level:
                own = module.split(".")
                base = own[: len(own) - node.level + is_package]
                target = ".".join([*base, target] if target else base)
            for alias in node.names:
                inner = f"{target}.{alias.name}"
                if inner in MODULES:  # `from package import module`
                    yield Import(node.lineno, inner)
                else:
                    yield Import(node.lineno, target, alias.name)


def imports_of(module: str) -> list[Import]:
    path = MODULES[module]
    return list(imports_in(path.read_text("utf-8"), module, path.name == "__init__.py"))


def room_of(module: str) -> str | None:
    """The room of a module of ours, empty for the package itself; ``None`` for others' modules."""
    package, *rest = module.split(".")
    if package != NAME:
        return None
    return rest[0] if rest else ""


def may_import(importer: str, target: str) -> bool:
    """Whether one module of ours may import another, by the order of their rooms."""
    here, there = room_of(importer), room_of(target)
    if here == there or here == "":  # the package itself hands out names of all rooms
        return True
    if here == "plots":
        return target in READ_BY_PLOTS
    return there in ROOMS and ROOMS.index(str(here)) < ROOMS.index(str(there))


def imports_between_rooms() -> dict[tuple[str, str], set[str]]:
    """Which modules of one room another one imports: (importing room, imported room) -> modules."""
    found: dict[tuple[str, str], set[str]] = {}
    for module in MODULES:
        for each in imports_of(module):
            here, there = room_of(module), room_of(each.target)
            if here and there and here != there:
                name = each.target.removeprefix(f"{NAME}.{there}").lstrip(".")
                found.setdefault((here, there), set()).add(name or "__init__")
    return found


def table_of_imports() -> str:
    """The imports between rooms as a table in Markdown: a row imports what its columns say."""
    found = imports_between_rooms()
    columns = ROOMS[1:]
    rows = [["imports", *(f"`{room}`" for room in columns)], ["---"] * (len(columns) + 1)]
    for room in ROOMS[:-1]:
        cells = [", ".join(sorted(found.get((room, other), ()))) for other in columns]
        rows.append([f"`{room}`", *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


every_module = pytest.mark.parametrize("module", MODULES)


def test_every_folder_is_a_room() -> None:
    folders = {path.parent.name for path in PACKAGE.rglob("*.py")} - {PACKAGE.name}
    assert folders == set(ROOMS)
    assert all((PACKAGE / room / "__init__.py").is_file() for room in ROOMS)


@every_module
def test_imports_go_downwards(module: str) -> None:
    wrong = [
        f"line {each.line} imports {each.target}"
        for each in imports_of(module)
        if room_of(each.target) is not None and not may_import(module, each.target)
    ]
    assert not wrong


@every_module
def test_one_room_alone_imports_spikingjelly(module: str) -> None:
    lines = [
        each.line for each in imports_of(module) if each.target.split(".")[0] == "spikingjelly"
    ]
    assert not lines or room_of(module) in WITH_SPIKINGJELLY


@every_module
def test_no_private_name_of_another_module_is_imported(module: str) -> None:
    ours = [each for each in imports_of(module) if room_of(each.target) is not None]
    assert not [each for each in ours if each.name.startswith("_")]


@every_module
def test_every_module_says_what_is_public(module: str) -> None:
    loaded = importlib.import_module(module)
    public = getattr(loaded, "__all__", None)
    assert public is not None, f"{module} has no __all__"
    assert len(set(public)) == len(public)
    assert not [name for name in public if not hasattr(loaded, name)]


@every_module
def test_every_module_has_a_test_file_of_its_name(module: str) -> None:
    path = MODULES[module]
    if path.name == "__init__.py":
        return
    mirror = TESTS / path.parent.relative_to(PACKAGE) / f"test_{path.name}"
    assert mirror.is_file(), f"{module} has no {mirror.relative_to(TESTS.parent)}"
    functions = ast.walk(ast.parse(mirror.read_text("utf-8")))
    assert any(isinstance(f, ast.FunctionDef) and f.name.startswith("test_") for f in functions)


@every_module
def test_no_file_is_long(module: str) -> None:
    assert len(MODULES[module].read_text("utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_says_its_job_in_a_line(room: str) -> None:
    job = importlib.import_module(f"{NAME}.{room}").__doc__
    assert job and len(job.splitlines()) == 1


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        module: {each.target for each in imports_of(module) if each.target in MODULES}
        for module in MODULES
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


# The checks themselves


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import a.b, c
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from d import e as f
def g():
    from .h import i
    from .. import neurons
    from . import j
    from sj_shortcut.plots import __all__, nothing_of_this_name
"""
    found = list(imports_in(source, "sj_shortcut.places.layout"))
    assert [(each.target, each.name) for each in found] == [
        ("a.b", ""),
        ("c", ""),
        ("typing", "TYPE_CHECKING"),
        ("d", "e"),
        ("sj_shortcut.places.h", "i"),
        ("sj_shortcut.neurons", ""),
        ("sj_shortcut.places", "j"),
        ("sj_shortcut.plots", "__all__"),
        ("sj_shortcut.plots", "nothing_of_this_name"),
    ]
    (inside,) = imports_in("from .norms import x", "sj_shortcut.torch_model", is_package=True)
    assert inside.target == "sj_shortcut.torch_model.norms"


@pytest.mark.parametrize(
    ("importer", "target", "allowed"),
    [
        ("sj_shortcut", "sj_shortcut.plots.plots", True),
        ("sj_shortcut.places.at", "sj_shortcut.neurons.families", True),
        ("sj_shortcut.places.at", "sj_shortcut.places.layout", True),
        ("sj_shortcut.places", "sj_shortcut.torch_model", True),
        ("sj_shortcut.places.at", "sj_shortcut.shortcuts.wrap", False),
        ("sj_shortcut.torch_model.norms", "sj_shortcut.neurons.memory", False),
        ("sj_shortcut.torch_model.norms", "sj_shortcut", False),
        ("sj_shortcut.plots.plots", "sj_shortcut.gradients.columns", True),
        ("sj_shortcut.plots.plots", "sj_shortcut.gradients.flow", False),
        ("sj_shortcut.plots.plots", "sj_shortcut.spikes.columns", True),
        ("sj_shortcut.plots.plots", "sj_shortcut.spikes.report", False),
        ("sj_shortcut.spikes.report", "sj_shortcut.gradients.run_model", True),
        ("sj_shortcut.gradients.flow", "sj_shortcut.spikes.report", False),
        ("sj_shortcut.plots.plots", "sj_shortcut.torch_model.norms", False),
        ("sj_shortcut.gradients.columns", "sj_shortcut.plots.plots", False),
    ],
)
def test_what_may_import_what(importer: str, target: str, allowed: bool) -> None:
    assert may_import(importer, target) == allowed


def test_the_table_has_a_row_for_each_room_above_another() -> None:
    lines = table_of_imports().splitlines()
    assert len(lines) == 2 + len(ROOMS) - 1
    assert all(line.count("|") == len(ROOMS) + 1 for line in lines)
    assert "memory" in imports_between_rooms()["places", "neurons"]


if __name__ == "__main__":
    print(table_of_imports())
