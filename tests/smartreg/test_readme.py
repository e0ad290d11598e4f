"""The README's python blocks run, in order, as one program."""

from pathlib import Path

import smartreg
from tests.readme import run_python_blocks


def test_the_blocks_run(capsys):
    names = run_python_blocks(Path(smartreg.__file__).with_name("README.md"))
    assert names["penalty"] > 0
    assert names["terms"].penalty > 0
    assert names["calibrated"].perturbation.epsilon > 1e-5
    assert "R-Drop" in capsys.readouterr().out
