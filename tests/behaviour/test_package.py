"""What is published: one version, an sdist of the whole repository, forms that parse."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import sj_shortcut

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
GITHUB = sorted((ROOT / ".github").rglob("*.yml"))


def test_the_version_stands_in_one_place():
    assert PROJECT["project"]["dynamic"] == ["version"] and "version" not in PROJECT["project"]
    attribute = PROJECT["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attribute == "sj_shortcut.__version__"
    # The build reads it without importing the package, so it has to be a literal.
    tree = ast.parse((ROOT / "sj_shortcut" / "__init__.py").read_text("utf-8"))
    (version,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert ast.literal_eval(version) == sj_shortcut.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", sj_shortcut.__version__)


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == sj_shortcut.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    authors = citation["preferred-citation"]["authors"]
    bibtex = (ROOT / "README.md").read_text("utf-8").split("author    = {")[1].split("},")[0]
    names = [f"{author['family-names']}, {author['given-names']}" for author in authors]
    assert names == [" ".join(name.split()) for name in re.split(r"\sand\s", bibtex.strip(" {"))]


def test_the_sdist_takes_all_that_is_in_the_repository():
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    git = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    tops = {line.split("/")[0] for line in git.stdout.splitlines()}
    manifest = (ROOT / "MANIFEST.in").read_text("utf-8")
    taken = {
        name
        for line in re.findall(r"^(?:graft|include) (.+)$", manifest, re.M)
        for name in line.split()
    }
    by_itself = {"sj_shortcut", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"}
    assert tops == taken | by_itself


def test_the_wheel_takes_the_package_alone():
    assert PROJECT["tool"]["setuptools"]["packages"]["find"]["include"] == ["sj_shortcut*"]


@pytest.mark.parametrize("path", GITHUB, ids=lambda path: path.name)
def test_forms_and_workflows_parse(path):
    content = yaml.safe_load(path.read_text("utf-8"))
    if path.parent.name == "workflows":
        # YAML 1.1 reads the key `on` as true.
        assert {"name", True, "jobs", "permissions"} == set(content)
        for job in content["jobs"].values():
            assert job["timeout-minutes"] and job["steps"]
    elif path.name != "config.yml":
        assert {"name", "description", "body"} <= set(content)
        ids = [field["id"] for field in content["body"] if field["type"] != "markdown"]
        assert len(ids) == len(set(ids)) >= 3
        for field in content["body"]:
            assert field["type"] in {"markdown", "textarea", "input", "dropdown", "checkboxes"}
            assert field["attributes"].get("label") or field["attributes"].get("value")


def test_workflows_run_what_is_run_here():
    commands = "\n".join(path.read_text("utf-8") for path in GITHUB)
    assert "run: .ci/run" in commands and "run: make docs" in commands
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "test docs" in script and "make" in script
