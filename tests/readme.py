"""Runs the python of a README as one program."""

import re
from pathlib import Path
from typing import Any

import pytest


def run_python_blocks(path: Path) -> dict[str, Any]:
    """Runs a README's python blocks in order and returns the names they leave.

    An installed package has no README beside it; a test of it is then skipped.
    """
    if not path.exists():
        pytest.skip("an installed package has no README.md beside it")
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(path), "exec"), names)
    return names
