"""The README's Python runs as printed, from the first block to the last."""

import inspect
import re
import warnings
from pathlib import Path

import pytest

import gradsurgery
from tests.readme import run_python_blocks

README = Path(gradsurgery.__file__).with_name("README.md")


def test_the_blocks_run_one_after_another(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_python_blocks(README)
    printed = capsys.readouterr().out
    assert "PairSummary(mean=" in printed
    assert "steps=50" in printed


@pytest.mark.skipif(not README.exists(), reason="an installed package has no README.md beside it")
def test_every_option_is_in_the_table():
    options = set(inspect.signature(gradsurgery.PCGrad).parameters) - {"optimizer"}
    assert {f"`{option}`" for option in options} == set(
        re.findall(r"^\| (`\w+`) \|", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    )


def test_the_public_names_are_there():
    assert all(hasattr(gradsurgery, name) for name in gradsurgery.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", gradsurgery.__version__)
