"""A typed program passes mypy --strict and pyright, through the py.typed of both packages."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gradsurgery

CONSUMER = Path(__file__).with_name("consumer.py")
FOLDER = Path(gradsurgery.__file__).parents[1]
"""The checkout, which checkers are told of; or site-packages, which they find, and where py.typed counts."""
INSTALLED = FOLDER.name == "site-packages"


def check(folder, *command):
    """Runs a checker in a folder of its own and returns what it printed, which must be no error."""
    environment = {**os.environ, "MYPYPATH": "" if INSTALLED else str(FOLDER)}
    arguments = [sys.executable, "-m", *map(str, command)]
    done = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_mypy(tmp_path):
    pytest.importorskip("mypy")
    cache = tmp_path if INSTALLED else FOLDER / ".mypy_cache" / "consumer"
    strict = ("--strict", "--warn-unused-ignores", "--cache-dir", cache)
    assert "no issues found in 1 source file" in check(tmp_path, "mypy", "--config-file=", *strict, CONSUMER)


@pytest.mark.slow
def test_pyright(tmp_path):
    pytest.importorskip("pyright")
    if shutil.which("node") is None:
        pytest.skip("pyright needs node")
    settings = {
        "include": [str(CONSUMER)],
        "extraPaths": [] if INSTALLED else [str(FOLDER)],
        "typeCheckingMode": "strict",
        "reportUnnecessaryTypeIgnoreComment": True,
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    printed = check(tmp_path, "pyright", "--pythonpath", sys.executable, "--project", tmp_path)
    assert "0 errors, 0 warnings" in printed
