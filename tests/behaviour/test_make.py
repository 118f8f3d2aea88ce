"""What `make test` does with its results, whatever they are."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

# Stands for the interpreter: notes what it is asked to run, and fails where it is told to.
STUB = """#!/bin/sh
case "$PYTHONPATH" in *0.0.0.0.14) name=old;; *) name=new;; esac
case "$2" in pytest) ;; *) name=lint;; esac
echo $name >> "$LOG"
for last; do :; done
case "$last" in --junit-xml=*) echo "$JUNIT" > "${last#*=}";; esac
case " $FAIL " in *" $name "*) exit 1;; esac
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("failing", ["", "new", "old", "lint", "lint new old"])
def test_both_generations_run_and_all_results_are_shown(tmp_path, failing):
    stub = tmp_path / "bin" / "python"
    for path in (stub, tmp_path / "spikingjelly-0.0.0.0.14" / ".ready"):
        path.parent.mkdir()
        path.touch()
    for name in (".python-ready", ".test-ready"):
        (tmp_path / name).touch()
    stub.write_text(STUB)
    stub.chmod(0o755)
    log = tmp_path / "log"
    junit = '<testsuites><testsuite name="pytest" errors="0" failures="1" skipped="2" tests="7">'
    env = {"JUNIT": junit, "PATH": os.environ["PATH"], "LOG": str(log), "FAIL": failing}
    done = subprocess.run(
        ["make", "test", f"VENV={tmp_path}"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    ran = log.read_text().split()
    assert "lint" in ran and ran[-2:] == ["new", "old"], done.stdout + done.stderr
    parts, lines = ("lint", "new", "old"), done.stdout.splitlines()[-3:]
    for part, line in zip(parts, lines, strict=True):
        assert ("FAILED" if part in failing else "passed") in line, done.stdout
    assert all(line.endswith("  7 tests: 1 failed, 0 errors, 2 skipped") for line in lines[1:])
    assert (done.returncode != 0) == bool(failing)
