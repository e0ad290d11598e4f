"""What SMART's steps cost obeys the laws of a step, in a small run and in the committed one."""

import json
from pathlib import Path

import pytest
import torch
from minbert_multitask.bert import BertConfig
from torch import nn

from benchmarks import measure, smart

COMMITTED = json.loads(
    (Path(__file__).parents[2] / "benchmarks" / "results" / "smart.json").read_text(encoding="utf-8")
)
# Activations outweigh parameters, as in a large batch.
SMALL = BertConfig(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=32,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """What a run at a small model writes."""
    folder = tmp_path_factory.mktemp("smart")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(smart.MODELS, "minilm", SMALL)
        arguments = ["--models", "minilm", "--rows", "16", "--tokens", "32", "--rounds", "1"]
        smart.main([*arguments, "--output", str(folder)])
    return json.loads((folder / "smart.json").read_text(encoding="utf-8"))


def first(found):
    return next(iter(found["models"].values()))


@pytest.fixture(scope="module", params=["small", "committed"])
def found(request):
    return COMMITTED if request.param == "committed" else request.getfixturevalue("small")


@pytest.fixture(scope="module")
def steps(found):
    return first(found)["one task"]


def test_a_backward_costs_two_forwards_and_the_search_a_forward_and_one_more(steps):
    task, joint = steps[smart.ALONE]["forwards"], steps["penalize, then one backward"]["forwards"]
    assert task == pytest.approx(3, abs=0.05)
    # The gradient of the perturbation alone takes one product for each of the model's, two for attention's.
    assert 1.95 < joint - 2 * task < 2.3
    assert steps["smart-pytorch"]["forwards"] == pytest.approx(joint, rel=1e-3)


def test_the_low_memory_backward_replays_exactly_one_forward(steps):
    joint = steps["penalize, then one backward"]["forwards"]
    assert steps["SMART.backward"]["forwards"] == pytest.approx(joint + 1, rel=1e-12)
    assert steps["SMART.backward, detach_clean=True"]["forwards"] == pytest.approx(joint, rel=1e-12)


def test_activations_are_those_of_two_forwards_or_of_one(steps):
    task = steps[smart.ALONE]["activations"]
    assert steps["penalize, then one backward"]["activations"] == pytest.approx(2 * task, rel=0.1)
    assert steps["smart-pytorch"]["activations"] == pytest.approx(2 * task, rel=0.1)
    for name in ("SMART.backward", "SMART.backward, detach_clean=True"):
        assert steps[name]["activations"] == pytest.approx(task, rel=0.1)


def test_smart_and_gse_on_three_tasks_keep_the_activations_of_the_largest_task(found):
    for model in found["models"].values():
        kept = {name: row["activations"] for name, row in model["three tasks"].items()}
        one = kept[smart.LARGEST]
        assert kept["callables, SMART.backward"] <= 1.1 * one
        assert kept["callables, penalize"] == pytest.approx(2 * one, rel=0.1)
        assert kept["losses, penalize"] == pytest.approx(5 * one, rel=0.1)  # of 1, 2 and 2 sentences, twice


def test_smart_and_gse_on_three_tasks_take_the_memory_of_one_plain_forward_and_backward(small):
    """In bytes of the allocator, where activations are what memory goes to: the paper ran out of it."""
    peaks = {name: row["peak"] for name, row in first(small)["three tasks"].items()}
    one = peaks[smart.LARGEST]
    assert peaks["callables, SMART.backward"] <= 1.1 * one
    assert peaks["callables, penalize"] > 1.8 * one
    assert peaks["losses, penalize"] > 4.5 * one


def test_wherever_memory_goes_low_memory_adds_a_gradient_to_what_gse_takes_alone(found):
    """The perturbed forward's gradient is there when the activations of the clean one are."""
    for model in found["models"].values():
        peaks = {name: row["peak"] for name, row in model["three tasks"].items()}
        assert peaks["callables, SMART.backward"] <= 1.1 * (peaks[smart.WITHOUT] + model["gradient"])


def test_a_peer_that_is_not_installed_is_a_row_that_says_so(monkeypatch):
    work = smart.Work(SMALL, 1, 4)
    monkeypatch.setitem(__import__("sys").modules, "smart_pytorch", None)
    rows = smart.one_task(work, rounds=1)
    assert "ModuleNotFoundError" in rows["smart-pytorch"]["error"]
    assert "error" not in rows["SMART.backward"]


def test_activations_by_hand():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    x = torch.randn(5, 3, requires_grad=True)  # so that the weight is kept too
    activations = measure.Activations(model)
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
