"""The README's Python runs as printed, from the first block to the last."""

import re
import warnings
from pathlib import Path

import pytest

import gradsurgery


@pytest.fixture(scope="module")
def readme():
    path = Path(gradsurgery.__file__).with_name("README.md")
    if not path.exists():
        pytest.skip("an installed package has no README.md beside it")
    return path.read_text(encoding="utf-8")


def test_the_blocks_run_one_after_another(readme, capsys):
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)
    assert len(blocks) == 3
    printed = capsys.readouterr().out
    assert "PairSummary(mean=" in printed
    assert "steps=50" in printed


def test_every_option_is_in_the_table(readme):
    import inspect

    options = set(inspect.signature(gradsurgery.PCGrad).parameters) - {"optimizer"}
    assert {f"`{option}`" for option in options} == set(
        re.findall(r"^\| (`\w+`) \|", readme, flags=re.MULTILINE)
    )


def test_the_public_names_are_there():
    assert all(hasattr(gradsurgery, name) for name in gradsurgery.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", gradsurgery.__version__)
