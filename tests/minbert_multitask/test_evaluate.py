"""Scores against scipy and plain loops; intervals against resampling written out and against known truths."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from minbert_multitask import evaluate
from minbert_multitask.data import Example
from minbert_multitask.evaluate import (
    TaskPredictions,
    accuracy,
    constant_scores,
    overall,
    pearson,
    resampled_scores,
    score,
)

TASKS = ("sst", "qqp", "sts")
METRICS = (*TASKS, "overall")

# Dev scores that the paper prints for its rows: SST, QQP, STS, overall.
PAPER = [
    (0.512, 0.731, 0.361, 0.641),
    (0.511, 0.727, 0.341, 0.636),
    (0.510, 0.718, 0.378, 0.639),
    (0.507, 0.748, 0.353, 0.644),
    (0.510, 0.706, 0.103, 0.589),
    (0.508, 0.730, 0.185, 0.610),
    (0.510, 0.737, 0.365, 0.643),
    (0.499, 0.747, 0.357, 0.641),
    (0.487, 0.750, 0.376, 0.642),
    (0.489, 0.762, 0.362, 0.644),
    (0.499, 0.761, 0.379, 0.650),
    (0.507, 0.758, 0.376, 0.651),
]


@pytest.fixture(autouse=True)
def no_warnings():
    """No score may be made of divisions by zero or overflows."""
    with np.errstate(all="raise", under="ignore"), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def named(predicted, gold, first=0):
    ids = tuple(f"id{first + i}" for i in range(len(gold)))
    return TaskPredictions(ids, np.array(predicted, dtype=float), np.array(gold, dtype=float))


def random_predictions(seed, size=60, skill=0.6):
    """Predictions that are right, or near, with some probability."""
    rng = np.random.default_rng(seed)
    found = {}
    for task, classes in (("sst", 5), ("qqp", 2)):
        gold = rng.integers(0, classes, size)
        guess = rng.integers(0, classes, size)
        found[task] = named(np.where(rng.random(size) < skill, gold, guess), gold)
    gold = rng.uniform(0, 5, size)
    found["sts"] = named(gold + rng.normal(0, 2, size), gold)
    return found


# Scores of one set of predictions


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1))
def test_accuracy_is_the_share_of_equal_pairs(pairs):
    predicted, gold = np.array(pairs, dtype=float).T
    assert accuracy(predicted, gold) == pytest.approx(sum(p == g for p, g in pairs) / len(pairs))


FINITE = st.floats(-1e3, 1e3)
PAIRS = st.lists(st.tuples(FINITE, FINITE), min_size=2, max_size=40)


def vary(values):
    return np.ptp(values) > 1e-3 * np.abs(values).max()


@given(PAIRS)
def test_pearson_is_scipys(pairs):
    predicted, gold = np.array(pairs).T
    assume(vary(predicted) and vary(gold))
    assert pearson(predicted, gold) == pytest.approx(
        scipy.stats.pearsonr(predicted, gold).statistic, abs=1e-9
    )


TENTHS = st.integers(-100, 100).map(lambda tenths: tenths / 10)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(TENTHS, TENTHS), min_size=2, max_size=40),
    st.sampled_from([1e-300, 1e-12, -3.0, 1e12, 1e300]),
)
def test_pearson_does_not_depend_on_the_scale(pairs, scale):
    predicted, gold = np.array(pairs).T
    assume(vary(predicted) and vary(gold))
    expected = np.sign(scale) * pearson(predicted, gold)
    assert pearson(predicted * scale, gold) == pytest.approx(expected, abs=1e-9)
    assert pearson(gold, predicted * scale) == pytest.approx(expected, abs=1e-9)


def test_scores_run_along_the_last_axis():
    rng = np.random.default_rng(0)
    predicted, gold = rng.normal(size=(2, 3, 4, 9))
    predicted[1, 2] = 1.0  # one constant row must not disturb the others
    expected = [[scipy.stats.pearsonr(p, g).statistic for p, g in zip(*rows, strict=True)]
                for rows in zip(predicted[:1], gold[:1], strict=True)]  # fmt: skip
    assert pearson(predicted, gold).shape == (3, 4)
    np.testing.assert_allclose(pearson(predicted, gold)[:1], expected)
    assert pearson(predicted, gold)[1, 2] == 0
    assert accuracy(np.round(predicted), np.round(gold)).shape == (3, 4)


def test_identical_and_opposite_predictions_correlate_fully():
    gold = np.array([0.1, 0.7, 1 / 3, 4.9])
    assert pearson(gold, gold) == pytest.approx(1, abs=1e-15)
    assert pearson(5 - gold, gold) == pytest.approx(-1, abs=1e-15)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1000, 7))
    assert np.abs(pearson(values, 3 * values + 1)).max() <= 1.0


CONSTANT = {
    "one value": [2.5] * 6,
    "zero": [0.0] * 6,
    "up to fp32 rounding": [2.5, 2.5 + 1e-6, 2.5 - 1e-6, 2.5, 2.5, 2.5],
    "NaN": [1.0, 2.0, math.nan, 4.0, 5.0, 0.0],
    "infinite": [1.0, 2.0, math.inf, 4.0, -math.inf, 0.0],
    "huge": [1e308] * 6,
}
GOLD = {"sst": [0, 1, 2, 3, 4, 0], "qqp": [0, 1, 0, 1, 0, 0], "sts": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}
VARIED = {"sst": [0, 1, 1, 1, 4, 0], "qqp": [0, 1, 1, 1, 0, 0], "sts": [0.0, 1.5, 2.0, 2.5, 4.0, 5.0]}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", list(CONSTANT))
def test_constant_and_non_finite_predictions_are_flagged_and_never_nan(task, kind):
    found = {t: named(CONSTANT[kind] if t == task else VARIED[t], GOLD[t]) for t in TASKS}
    scores = score(found, resamples=50)
    assert [metric for metric in METRICS if scores[metric].flagged] == [task, "overall"]
    assert all(
        math.isfinite(number) for m in METRICS for number in (scores[m].value, scores[m].low, scores[m].high)
    )
    if task == "sts":
        assert (scores.sts.value, scores.sts.low, scores.sts.high) == (0, 0, 0)


def test_varied_predictions_are_not_flagged():
    scores = score({task: named(VARIED[task], GOLD[task]) for task in TASKS}, resamples=50)
    assert not any(scores[metric].flagged for metric in METRICS)


def test_predictions_that_vary_little_still_correlate():
    predicted = 4.9 + np.array([1, 3, 2, 5, 4]) * 1e-4
    assert pearson(predicted, np.arange(5.0)) == pytest.approx(
        0.8
    )  # that of their ranks, which they are linear in


def test_a_constant_gold_correlates_with_nothing():
    assert pearson(np.array([1.0, 2.0, 3.0]), np.array([4.0, 4.0, 4.0])) == 0


@pytest.mark.parametrize("row", PAPER)
def test_overall_is_the_papers(row):
    *scores, printed = row
    assert overall(*scores) == pytest.approx(printed, abs=6e-4)


def test_overall_of_arrays():
    sst, qqp, sts = np.random.default_rng(0).random((3, 5))
    expected = [(a + b + (c + 1) / 2) / 3 for a, b, c in zip(sst, qqp, sts, strict=True)]
    np.testing.assert_allclose(overall(sst, qqp, sts), expected)


@given(st.fixed_dictionaries({
    "sst": st.lists(st.integers(0, 4), min_size=1),
    "qqp": st.lists(st.integers(0, 1), min_size=1),
    "sts": st.lists(st.floats(0, 5), min_size=1),
}))  # fmt: skip
def test_constant_scores_are_those_of_the_best_constant(gold):
    best = {t: max(sum(g == c for g in gold[t]) / len(gold[t]) for c in range(5)) for t in ("sst", "qqp")}
    found = constant_scores(gold)
    assert found["sst"] == pytest.approx(best["sst"])
    assert found["qqp"] == pytest.approx(best["qqp"])
    assert found["sts"] == 0
    assert found["overall"] == pytest.approx((best["sst"] + best["qqp"] + 0.5) / 3)


# Intervals


def plain_resamples(several, resamples, seed):
    """By metric, S scores of each of several predictions, drawn and scored one at a time."""
    drawn = {metric: [[] for _ in several] for metric in METRICS}
    for index, task in enumerate(TASKS):
        rng = np.random.default_rng([seed, index])
        size = len(several[0][task].gold)
        for _ in range(resamples):
            chosen = rng.integers(0, size, size).tolist()
            for scores, predictions in zip(drawn[task], several, strict=True):
                predicted = [predictions[task].predicted[i] for i in chosen]
                gold = [predictions[task].gold[i] for i in chosen]
                if task == "sts":
                    scores.append(scipy.stats.pearsonr(predicted, gold).statistic)
                else:
                    scores.append(sum(p == g for p, g in zip(predicted, gold, strict=True)) / size)
    for i in range(len(several)):
        for a, b, c in zip(*(drawn[task][i] for task in TASKS), strict=True):
            drawn["overall"][i].append((a + b + (c + 1) / 2) / 3)
    return drawn


def quantile(values, q):
    """The quantile, linear between order statistics."""
    values, place = sorted(values), q * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])


@pytest.mark.parametrize("chunk", [evaluate._CHUNK, 100, 1])
def test_intervals_are_percentiles_of_resampled_scores(monkeypatch, chunk):
    monkeypatch.setattr(evaluate, "_CHUNK", chunk)  # indices drawn at once change nothing
    predictions = random_predictions(0)
    predictions["qqp"] = named([1, 0, 1, 1, 0, 0, 1], [1, 0, 0, 1, 0, 1, 1])  # tasks differ in size
    drawn = plain_resamples([predictions], 150, seed=5)
    scores = score(predictions, resamples=150, seed=5)
    for metric in METRICS:
        assert scores[metric].low == pytest.approx(quantile(drawn[metric][0], 0.025), abs=1e-12)
        assert scores[metric].high == pytest.approx(quantile(drawn[metric][0], 0.975), abs=1e-12)
    values = {t: predictions[t] for t in TASKS}
    assert scores.sst.value == np.mean(values["sst"].predicted == values["sst"].gold)
    assert scores.qqp.value == pytest.approx(5 / 7)
    expected = scipy.stats.pearsonr(values["sts"].predicted, values["sts"].gold).statistic
    assert scores.sts.value == pytest.approx(expected)
    assert scores.overall.value == pytest.approx((scores.sst.value + 5 / 7 + (expected + 1) / 2) / 3)


def test_the_seed_decides_the_interval_and_nothing_else():
    predictions = random_predictions(0)
    np.random.seed(0)  # the global generator is what must not matter
    one = score(predictions, resamples=100, seed=1)
    np.random.seed(1)
    assert score(predictions, resamples=100, seed=1) == one
    other = score(predictions, resamples=100, seed=2)
    assert other.values() == one.values()
    assert other.overall.low != one.overall.low


def test_tasks_are_resampled_independently():
    same = named([0, 1, 1, 0, 1, 0, 1, 1], [0, 1, 0, 0, 1, 1, 1, 1])
    values = resampled_scores([dict.fromkeys(TASKS, same)], seed=0)[1]
    assert abs(np.corrcoef(values["sst"][0], values["qqp"][0])[0, 1]) < 0.1


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(7)
    trials, size, rho = 200, 150, 0.6
    truth = {"sst": 0.5, "qqp": 0.75, "sts": rho}
    truth["overall"] = (0.5 + 0.75 + (rho + 1) / 2) / 3
    covered = dict.fromkeys(METRICS, 0)
    for _ in range(trials):
        x = rng.normal(size=size)
        y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=size)
        predictions = {t: named(rng.random(size) < truth[t], np.ones(size)) for t in ("sst", "qqp")}
        scores = score({**predictions, "sts": named(x, y)}, resamples=200)
        for metric in METRICS:
            covered[metric] += scores[metric].low <= truth[metric] <= scores[metric].high
    # Of 200 intervals of 95 %, 190 ± 3 cover; the percentile bootstrap of small samples covers a little less.
    assert all(178 <= count <= 199 for count in covered.values()), covered


# Several models, resampled alike


def shifted(a, seed):
    """Predictions for the same examples that are mostly a's."""
    rng = np.random.default_rng(seed)
    b = {}
    for task in TASKS:
        kept = rng.random(len(a[task].gold)) < 0.8
        other = a[task].gold if task != "sts" else rng.normal(size=len(kept))
        b[task] = replace(a[task], predicted=np.where(kept, a[task].predicted, other))
    return b


def test_several_are_resampled_by_the_same_examples():
    several = [random_predictions(1)]
    several.append(shifted(several[0], 2))
    drawn = plain_resamples(several, 120, seed=3)
    values, resampled = resampled_scores(several, resamples=120, seed=3)
    for metric in METRICS:
        for index, predictions in enumerate(several):
            assert values[metric][index] == score(predictions, resamples=1)[metric].value
            np.testing.assert_allclose(resampled[metric][index], drawn[metric][index], atol=1e-12)


def test_pairing_separates_models_whose_own_intervals_overlap():
    gold = np.arange(400) % 2
    right = np.arange(400) % 10 < 6
    better = right | (np.arange(400) % 25 == 9)  # the same and some more
    b, a = ({t: named(np.where(r, gold, 1 - gold), gold) for t in TASKS} for r in (right, better))
    assert score(b).sst.high > score(a).sst.low
    _, resampled = resampled_scores([a, b])
    assert np.percentile(resampled["sst"][0] - resampled["sst"][1], 2.5) > 0


# Refusals


def test_predictions_are_one_value_an_example():
    examples = [Example(f"id{i}", "A film.", None, float(i)) for i in range(3)]
    found = TaskPredictions.of(examples, [2, 1, 0])
    assert found.ids == ("id0", "id1", "id2")
    assert found.predicted.tolist() == [2, 1, 0]
    assert found.gold is not None
    assert found.gold.tolist() == [0, 1, 2]
    unlabelled = TaskPredictions.of([replace(example, label=None) for example in examples], [2, 1, 0])
    assert unlabelled.gold is None
    with pytest.raises(
        ValueError, match=r"predicted must have shape \(3,\), one value an example, got \(2,\)"
    ):
        TaskPredictions.of(examples, [2, 1])
    with pytest.raises(ValueError, match=r"predicted must have shape \(3,\), .* got \(3, 1\)"):
        TaskPredictions.of(examples, np.zeros((3, 1)))


def test_what_cannot_be_scored_is_refused():
    whole = random_predictions(0)
    with pytest.raises(ValueError, match="predictions must cover sst, qqp, sts, got sst, qqp"):
        score({task: whole[task] for task in ("sst", "qqp")})
    with pytest.raises(ValueError, match="predictions must cover sst, qqp, sts, got none"):
        score({})
    with pytest.raises(ValueError, match="sts has no labels to score against; score the dev split"):
        score({**whole, "sts": replace(whole["sts"], gold=None)})
    with pytest.raises(ValueError, match="qqp has no labels to score against"):
        score({**whole, "qqp": named([], [])})
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        score(whole, resamples=0)


def test_predictions_for_different_examples_are_not_compared():
    a = random_predictions(0)
    b = {**a, "qqp": replace(a["qqp"], ids=a["qqp"].ids[::-1])}
    with pytest.raises(ValueError, match="all must predict the same qqp examples in one order"):
        resampled_scores([a, b])
    with pytest.raises(ValueError, match="predictions must cover"):
        resampled_scores([{}, {}])


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_a_score_lies_within_the_range_of_its_metric(seed):
    scores = score(random_predictions(seed, size=5), resamples=20)
    for metric, least in (("sst", 0), ("qqp", 0), ("sts", -1), ("overall", 0)):
        assert least <= scores[metric].low <= scores[metric].high <= 1
        assert least <= scores[metric].value <= 1
