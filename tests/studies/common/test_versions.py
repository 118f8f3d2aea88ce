"""What a row says it was made with."""

import subprocess

import torch

from analysis.common import versions


def git(folder, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", *identity, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_and_whether_code_was_edited_since(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    assert versions.library_commit() == ""
    (tmp_path / "sj_shortcut").mkdir()
    code = tmp_path / "sj_shortcut" / "code.py"
    code.write_text("one = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert versions.library_commit() == f"g{commit[:12]}"
    (tmp_path / "table.csv").write_text("a result\n")
    assert versions.library_commit() == f"g{commit[:12]}"
    code.write_text("one = 2\n")
    assert versions.library_commit() == f"g{commit[:12]}+changes"


def test_columns_of_the_processor() -> None:
    row = versions.made_with(torch.device("cpu"))
    assert row["device"].startswith("CPU") and row["torch"] == torch.__version__
    assert all(isinstance(value, str) for value in row.values())
