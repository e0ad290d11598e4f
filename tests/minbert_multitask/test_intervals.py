"""The interval of a mean over seeds has the error of the examples and that of the seeds."""

import math
from pathlib import Path

import minbert_multitask
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from minbert_multitask.evaluate import Score
from minbert_multitask.intervals import half_width, mean_score
from scipy import stats

PACKAGE = Path(minbert_multitask.__file__).parent
scores = st.lists(
    st.builds(
        lambda value, below, above: Score(value, value - below, value + above),
        st.floats(0.1, 0.9),
        st.floats(1e-3, 0.1),
        st.floats(1e-3, 0.1),
    ),
    min_size=2,
    max_size=6,
)


def test_one_seeds_interval_is_its_own():
    score = Score(0.5, 0.46, 0.55, flagged=True)
    assert mean_score([score]) is score


@given(scores)
def test_the_two_errors_are_added_in_squares(found):
    half = np.mean([(score.high - score.low) / 2 for score in found])
    of_examples = (half / 1.959964) ** 2
    of_seeds = np.var([score.value for score in found], ddof=1) / len(found)
    many = 1e12  # degrees of freedom of the examples' error, in Welch and Satterthwaite's formula
    freedom = (of_examples + of_seeds) ** 2 / (of_examples**2 / many + of_seeds**2 / (len(found) - 1))
    expected = stats.t.ppf(0.975, freedom) * math.sqrt(of_examples + of_seeds)
    mean = mean_score(found)
    assert math.isclose(mean.value, np.mean([score.value for score in found]))
    np.testing.assert_allclose([mean.value - mean.low, mean.high - mean.value], expected, rtol=1e-4)


@given(st.lists(st.floats(0.1, 0.9), min_size=2, max_size=6, unique=True))
def test_without_an_error_of_the_examples_it_is_students(values):
    mean = mean_score([Score(value, value, value) for value in values])
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose([mean.low, mean.high], expected, atol=1e-9)


def test_without_an_error_of_the_seeds_it_is_the_examples():
    mean = mean_score([Score(0.5, 0.47, 0.53), Score(0.5, 0.49, 0.51, flagged=True)])
    np.testing.assert_allclose([mean.low, mean.value, mean.high], [0.48, 0.5, 0.52])
    assert mean.flagged


@pytest.mark.parametrize("ratio", [1, 2, 3, 5, 10])
def test_of_three_seeds_it_covers_what_the_protocol_says(ratio):
    """By how much seeds differ, in errors of the examples."""
    generator, size = np.random.default_rng(0), 20_000
    luck = ratio * generator.normal(size=(size, 3))
    values = generator.normal(size=size) + luck.mean(axis=1)
    halves = [half_width(of_examples=1.0, of_seeds=each, seeds=3) for each in luck.var(axis=1, ddof=1) / 3]
    covered = np.mean(np.abs(values) <= halves)
    assert 0.915 < covered < 0.955
    assert "Of three seeds it covers 92 % or more" in (PACKAGE / "PROTOCOL.md").read_text(encoding="utf-8")


def test_of_three_seeds_it_covers_the_truth_in_at_least_90_of_100_experiments():
    generator = np.random.default_rng(1)
    for of_examples, of_seeds in ((0.02, 0.005), (0.01, 0.01), (0.002, 0.02)):
        covered = []
        for _ in range(1000):
            common = 0.5 + of_examples * generator.normal()  # all seeds are scored on the same examples
            values = common + of_seeds * generator.normal(size=3)
            half = 1.959964 * of_examples
            mean = mean_score([Score(value, value - half, value + half) for value in values])
            covered.append(mean.low <= 0.5 <= mean.high)
        assert 0.9 <= np.mean(covered) <= 0.97  # with 1.96 standard errors, 0.82 where seeds differ most
