"""Run a notebook in a fresh kernel; ``python -m tests.examples.notebooks`` stores its outputs."""

import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests import pages

PATH = pages.ROOT / "examples" / "tutorial.ipynb"
# A guard against a cell that never ends, and not a limit on speed.
HANG = 1500


def read() -> NotebookNode:
    return nbformat.read(PATH, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execute(notebook: NotebookNode, folder: Path) -> None:
    """Run all cells in a folder; nothing of the caller's own Jupyter is read or written."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(folder / name.lower()))
        patch.setenv("PYTHONPATH", pages.environment()["PYTHONPATH"])
        patch.delenv("MPLBACKEND", raising=False)  # the kernel's own shows figures in the notebook
        work = folder / "work"
        work.mkdir()
        NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=HANG,
            record_timing=False,
            resources={"metadata": {"path": str(work)}},
        ).execute()


def kinds(cell: NotebookNode) -> list[list[str]]:
    """What a cell puts out: kinds of data, without numbers; other packages' warnings left out."""
    return [
        ["text"] if output.output_type == "stream" else sorted(output.get("data", ["error"]))
        for output in cell.outputs
        if output.get("name") != "stderr"
    ]


def store() -> None:
    notebook = read()
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.validate(notebook)
    nbformat.write(notebook, PATH)


if __name__ == "__main__":
    store()
