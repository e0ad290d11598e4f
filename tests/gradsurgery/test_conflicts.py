"""Reports and histories against the definitions of a cosine, a mean and its standard error."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradsurgery import ConflictHistory, ConflictReport, PCGrad
from tests.gradsurgery.reference import QUARTER, losses_with, matrices, parameters_like


def report_of(rows, names=None, **options):
    parameters = parameters_like(rows[0])
    optimizer = PCGrad(torch.optim.SGD(parameters, lr=1.0), scope="all", **options)
    losses = losses_with(rows, parameters)
    optimizer.backward(losses if names is None else dict(zip(names, losses, strict=True)))
    return optimizer.conflicts, parameters[0].grad


@QUARTER
@given(rows=matrices(tasks=(1, 5)), mean=st.booleans())
def test_a_report_describes_the_rows(rows, mean):
    rows = rows[:, rows.any(dim=0)] if rows.any() else rows
    report, result = report_of(rows, reduction="mean" if mean else "sum")
    lengths = rows.norm(dim=1)
    torch.testing.assert_close(report.norms, lengths)
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            expected = (
                torch.cosine_similarity(a, b, dim=0, eps=0.0) if a.any() and b.any() else torch.tensor(0.0)
            )
            assert report.cosines[i, j].item() == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(report.weights @ rows, result)
    pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
    negative = sum(report.cosines[i, j] < 0 for i, j in pairs)
    assert report.conflict_rate == (negative / len(pairs) if pairs else pytest.approx(math.nan, nan_ok=True))


def test_pairs_go_by_the_tasks_names():
    report, _ = report_of(torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, 2.0]]), names=["sst", "qqp", "sts"])
    assert report.tasks == ("sst", "qqp", "sts")
    assert report.pairs == {
        ("sst", "qqp"): pytest.approx(-(0.5**0.5)),
        ("sst", "sts"): 0.0,
        ("qqp", "sts"): pytest.approx(0.5**0.5),
    }


def test_a_report_shows_what_is_not_finite():
    gramian = torch.tensor([[1.0, math.nan], [math.nan, math.inf]])
    assert ConflictReport(("a", "b"), gramian, torch.ones(2)).cosines.isnan()[0, 1]


def test_there_is_a_report_after_a_backward_only():
    parameters = parameters_like(torch.zeros(2))
    optimizer = PCGrad(torch.optim.SGD(parameters, lr=1.0))
    assert optimizer.conflicts is None
    optimizer.backward(losses_with(torch.ones(2, 2), parameters), accumulate=True)
    assert optimizer.conflicts is None


@QUARTER
@given(cosines=st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_the_summary_of_a_history(cosines):
    history = ConflictHistory()
    for step, c in enumerate(cosines):
        gramian = torch.tensor([[1.0, c, 0.5], [c, 1.0, 0.5], [0.5, 0.5, 1.0]], dtype=torch.float64)
        history.record(10 * step, ConflictReport(("a", "b", "c"), gramian, torch.ones(3)))
    summary = history.summary()
    assert set(summary) == {("a", "b"), ("a", "c"), ("b", "c")}
    pair = summary["a", "b"]
    assert pair.mean == pytest.approx(np.mean(cosines), abs=1e-12)
    assert pair.standard_error == pytest.approx(np.std(cosines, ddof=1) / np.sqrt(len(cosines)), abs=1e-9)
    assert pair.conflict_rate == np.mean(np.array(cosines) < 0)
    assert pair.steps == len(cosines)
    assert history.steps["b", "c"] == list(range(0, 10 * len(cosines), 10))


def test_a_history_survives_json():
    history = ConflictHistory({("a", "b"): [1, 5]}, {("a", "b"): [0.25, -0.125]})
    assert ConflictHistory.from_json(json.loads(json.dumps(history.to_json()))) == history
    history.to_json()[0]["steps"].append(9)
    assert history.steps["a", "b"] == [1, 5]


def test_one_measurement_has_no_standard_error():
    history = ConflictHistory({("a", "b"): [1]}, {("a", "b"): [-0.25]})
    assert math.isnan(history.summary()["a", "b"].standard_error)
    assert history.summary()["a", "b"].conflict_rate == 1
