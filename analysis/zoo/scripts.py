"""Take the network classes out of SpikingJelly's example scripts without running the scripts.

Many of them need packages that have nothing to do with the network (gym, Lightning, TensorBoard),
define the network inside a function, or train when they are imported.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
from pathlib import Path
from typing import Any

__all__ = ["from_script"]


def from_script(path: str, name: str, **names: Any) -> Any:
    """A class or function of a script, wherever it is defined in it.

    Args:
        path: Of the script, below SpikingJelly's folder ``activation_based/examples``.
        name: Of the class or function.
        names: Values that the script computes before, such as numbers read from the command line.

    Raises:
        FileNotFoundError: If this SpikingJelly has no such script.
        KeyError: If the script has no such class or function.
    """
    package = f"spikingjelly.activation_based.examples.{path.removesuffix('.py').replace('/', '.')}"
    file = _examples() / path
    scope: dict[str, Any] = {
        "__name__": package,
        "__package__": package.rpartition(".")[0],
        **names,
    }
    for node in _needed(ast.parse(file.read_text(encoding="utf-8"))):
        # What is missing is missed by parts of the script that no network needs.
        with contextlib.suppress(ImportError, NameError, AttributeError):
            exec(compile(ast.Module([node], []), str(file), "exec"), scope)
    scope.update(names)
    return scope[name]


def _examples() -> Path:
    found = importlib.util.find_spec("spikingjelly")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("SpikingJelly is not installed.")
    return Path(found.submodule_search_locations[0]) / "activation_based" / "examples"


def _needed(tree: ast.AST) -> list[ast.stmt]:
    """Imports, classes and functions that build networks, in the order of the script."""
    found: list[ast.stmt] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef):
            found.append(node)
        elif isinstance(node, ast.FunctionDef) and node.name in ("mlp", "make_flexsn"):
            found.append(node)
    return sorted(found, key=lambda node: (not isinstance(node, ast.Import | ast.ImportFrom),
                                           node.lineno))  # fmt: skip
