"""The README's python blocks run, in order, as one program."""

import re
from pathlib import Path

import pytest

import smartreg

README = Path(smartreg.__file__).parent / "README.md"


@pytest.mark.skipif(not README.exists(), reason="an installed package has no README beside it")
def test_the_blocks_run(capsys):
    blocks = re.findall(
        r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) >= 4
    names = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert names["penalty"] > 0
    assert names["terms"].penalty > 0
    assert names["calibrated"].perturbation.epsilon > 1e-5
    assert "R-Drop" in capsys.readouterr().out
