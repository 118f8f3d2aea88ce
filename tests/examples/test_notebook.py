"""examples/tutorial.ipynb runs, shows what it says, and is stored with its outputs."""

import base64
import copy
import json
import re

import nbformat
import pytest
import torch

from tests.examples import notebooks

# Appended to the notebook: what its text claims, in numbers.
MEASURE = """
import json
total = table.loc[table.layer == "(total)"]
print(json.dumps({
    "vanilla": accuracy(vanilla),
    "shortcuts": accuracy(model),
    "loaded": accuracy(fresh),
    "six layers": accuracy(shallow),
    "verdict": summarize(vanilla_flow).verdict.item(),
    "coherence": [f.coherence.mean() for f in (vanilla_flow, flow)],
    "norms": vanilla_flow.weight_grad_norm.tolist(),
    "heads": list(known.values())[:-1],
    "output": known["output"],
    "coefficients": list(criterion.schedule.coefficients.values()),
    "ratios": [total.spikes_ratio.item(), total.synops_ratio.item()],
    "free of heads": not has_shortcuts(model),
}))
"""


@pytest.fixture(scope="module")
def stored():
    return notebooks.read()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The notebook as a fresh kernel leaves it, and the numbers of its claims."""
    notebook = copy.deepcopy(notebooks.read())
    for cell in notebooks.code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    notebook.cells.append(nbformat.v4.new_code_cell(MEASURE))
    notebooks.execute(notebook, tmp_path_factory.mktemp("notebook"))
    measure = notebook.cells.pop()
    return notebook, json.loads(measure.outputs[-1].text)


def test_every_cell_runs_and_puts_out_what_is_stored(run, stored):
    cells, expected = notebooks.code_cells(run[0]), notebooks.code_cells(stored)
    assert len(cells) == len(expected) > 15
    for cell, other in zip(cells, expected, strict=True):
        assert notebooks.kinds(cell) == notebooks.kinds(other), cell.source
    shown = [kind for cell in cells for output in notebooks.kinds(cell) for kind in output]
    assert shown.count("image/png") == 5 and shown.count("text/html") >= 6


def test_tables_are_html_with_what_the_text_points_at(run):
    tables = [
        output.data["text/html"]
        for cell in notebooks.code_cells(run[0])
        for output in cell.outputs
        if "text/html" in output.get("data", {})
    ]
    for words in ("shattered: in ", "<td>head</td>", "<td>(total)</td>", "<th>output</th>"):
        assert sum(words in table for table in tables) == 1, words


def test_what_the_text_says_holds(run):
    claims = run[1]
    assert claims["vanilla"] < 0.45, "hardly learns"
    assert claims["shortcuts"] > claims["vanilla"] + 0.3
    assert claims["six layers"] > claims["shortcuts"]
    assert claims["loaded"] == claims["shortcuts"] and claims["free of heads"]


def test_what_the_text_says_of_gradients_holds(run):
    claims = run[1]
    # Another processor rounds otherwise, and trains another network: 10 to 20 layers were seen.
    shattered = re.search(r"shattered: in (\d+) of 22 layers", claims["verdict"])
    assert shattered and int(shattered[1]) > 6, claims["verdict"]
    assert "vanishing" not in claims["verdict"]
    vanilla, shortcuts = claims["coherence"]
    assert vanilla < 0.1 < shortcuts
    assert 0.01 < claims["norms"][0] / claims["norms"][-1] < 1, "shrinks, but does not vanish"


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14),
    reason="older PyTorch rounds otherwise, and the training goes another way",
)
def test_what_the_text_says_of_heads_and_spikes_holds(run):
    claims = run[1]
    as_good = [accuracy >= claims["output"] - 0.005 for accuracy in claims["heads"]]
    assert len(as_good) == 8 and sum(as_good[1:-1]) >= 4
    first, *others = claims["coefficients"]
    assert first < min(others) and sum(value > 0.9 for value in others) >= 6
    assert min(claims["ratios"]) > 1, "more spikes with shortcuts"


# The file


def test_stored_outputs_are_of_one_run_from_top_to_bottom(stored):
    cells = notebooks.code_cells(stored)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        last = cell.source.splitlines()[-1]
        silent = re.match(r"( |SEED = |plt\.rc|model\.train|EPOCHS)", last) is not None
        assert bool(cell.outputs) != silent, cell.source


def test_stored_outputs_are_of_no_machine_and_no_hour(stored):
    nbformat.validate(stored)
    assert stored.metadata.kernelspec.name == "python3"
    assert set(stored.metadata) == {"kernelspec", "language_info"}
    words = []
    for cell in stored.cells:
        assert "execution" not in cell.metadata
        words.append(cell.source)
        for output in cell.get("outputs", []):
            assert output.output_type != "error" and output.get("name") != "stderr"
            words += [output.get("text", "")]
            words += [text for kind, text in output.get("data", {}).items() if "png" not in kind]
    text = "\n".join(words)
    assert not re.search(r"(?<![\w.>-])/\w+/|[A-Z]:\\|0x[0-9a-f]{6}|Warning|\d s\b|seconds", text)


def test_stored_pictures_are_of_modest_size(stored):
    assert notebooks.PATH.stat().st_size < 600_000
    for cell in notebooks.code_cells(stored):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                picture = base64.b64decode(output.data["image/png"])
                assert picture.startswith(b"\x89PNG")
                width = int.from_bytes(picture[16:20])
                assert 350 < width < 1200 and 5_000 < len(picture) < 120_000


def test_links_lead_to_files(stored):
    links = [
        link
        for cell in stored.cells
        if cell.cell_type == "markdown"
        for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", cell.source)
    ]
    assert len(links) >= 6
    for link in links:
        assert (notebooks.PATH.parent / link).is_file(), link
