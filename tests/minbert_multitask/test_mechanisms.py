"""The two experiments on frozen embeddings: their parts by plain formulas, and the committed findings."""

import json
from pathlib import Path

import minbert_multitask
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from minbert_multitask import mechanisms
from minbert_multitask.heads import LinearSimilarity
from minbert_multitask.inputs import DataSource
from minbert_multitask.mechanisms import Mechanisms
from minbert_multitask.results import RunResult
from minbert_multitask.settings import Settings
from minbert_multitask.typed_json import from_plain
from scipy import stats

EXAMPLE = Path(minbert_multitask.__file__).parent
PAGE, RESULTS = EXAMPLE / "RESULTS.md", EXAMPLE / "results" / "reproduction" / "mechanisms.json"


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=20, unique=True))
def test_saturation_is_that_of_the_heads_formula(cosines):
    cosines = torch.tensor(cosines, dtype=torch.float64, requires_grad=True)
    labels = torch.linspace(0, 5, len(cosines), dtype=torch.float64)
    outputs = 5 * torch.sigmoid(20 * cosines)
    (slopes,) = torch.autograd.grad(outputs.sum(), cosines)
    found = mechanisms.saturation(cosines.detach().numpy(), labels.numpy())
    assert found.near_top == pytest.approx((outputs > 4.9).double().mean().item())
    assert found.flat == pytest.approx((slopes < 0.01 * 25).double().mean().item())  # 25 = 5 * 20 / 4
    assert found.error == pytest.approx((outputs - labels).square().mean().sqrt().item())
    assert found.constant_error == pytest.approx((labels - labels.mean()).square().mean().sqrt().item())


def pairs(size, generator):
    """Embeddings of pairs whose label is how alike they are, and nothing else."""
    a = generator.normal(size=(size, 6))
    share = generator.random((size, 1))
    b = share * a + (1 - share) * generator.normal(size=(size, 6))
    return a, b, 5 * mechanisms._cosines(a, b)


def test_an_additive_head_cannot_learn_likeness_but_one_with_products_can():
    generator = np.random.default_rng(0)
    train, dev = pairs(3000, generator), pairs(1000, generator)
    scores = {
        name: mechanisms.ridge_pearson(features(*train[:2]), train[2], features(*dev[:2]), dev[2])
        for name, features in mechanisms.FEATURES.items()
    }
    assert abs(scores["[a; b]"]) < 0.15
    assert scores["[a; b; cos]"] > 0.99
    assert scores["[a; b; abs(a - b); a b]"] > 0.7


def test_the_ridge_regression_finds_a_linear_law():
    generator = np.random.default_rng(0)
    features, weights = generator.normal(size=(500, 4)), np.array([1.0, -2.0, 0.0, 3.0])
    labels = features @ weights + 0.1 * generator.normal(size=500)
    found = mechanisms.ridge_pearson(features[:400], labels[:400], features[400:], labels[400:])
    best = stats.pearsonr(features[400:] @ weights, labels[400:]).statistic
    assert found == pytest.approx(best, abs=1e-3)


def test_the_features_of_a_b_are_what_the_linear_head_sees():
    a, b = np.ones((2, 3)), np.zeros((2, 3))
    assert mechanisms.FEATURES["[a; b]"](a, b).shape[1] == LinearSimilarity(3).linear.in_features


def test_the_experiments_run_on_small_data(small_data, small_weights):
    settings = Settings(weights=str(small_weights), device="cpu")
    found = mechanisms.measure(DataSource("small", small_data), settings)
    assert set(found.saturation) == {"cls", "cls, d features", "mean"}
    assert all(set(scores) == set(mechanisms.FEATURES) for scores in found.linear.values())
    assert found.markdown().count("\n") == 9


def test_the_committed_findings_are_of_the_data_of_the_committed_runs():
    runs = RunResult.load(RESULTS.parent / "multitask-11711" / "result.json")
    found = json.loads(RESULTS.read_text())
    assert (found["data_fingerprint"], found["weights"]) == (runs.data.fingerprint, runs.weights.name)


def test_the_page_of_results_shows_the_committed_findings():
    committed = from_plain(json.loads(RESULTS.read_text()), Mechanisms, place=RESULTS.name)
    assert committed.markdown() in PAGE.read_text(encoding="utf-8")


def test_the_committed_findings_bear_out_what_is_said_of_them():
    found = json.loads(RESULTS.read_text())
    for where in ("cls", "cls, d features"):
        assert found["saturation"][where]["flat"] > 0.99
        assert found["saturation"][where]["pearson"] < 0.5 * found["saturation"][where]["cosine_pearson"]
    for scores in found["linear"].values():
        assert scores["[a; b]"] < 0.25
        assert min(scores["[a; b; cos]"], scores["[a; b; abs(a - b); a b]"]) > 0.79
