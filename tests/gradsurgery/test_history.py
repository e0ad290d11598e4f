"""Histories against numpy on all the cosines: bounded memory changes no summary, and order of tasks none."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradsurgery import ConflictHistory, ConflictReport, PairSummary
from tests.gradsurgery.reference import QUARTER

COSINES = st.lists(st.floats(-1, 1), min_size=1, max_size=60)


def report(c, tasks=("a", "b", "c"), **options):
    gramian = torch.tensor([[1.0, c, 0.5], [c, 1.0, 0.5], [0.5, 0.5, 1.0]], dtype=torch.float64)
    return ConflictReport(tasks, gramian[: len(tasks), : len(tasks)], torch.ones(len(tasks)), **options)


def history_of(cosines, **options):
    history = ConflictHistory(**options)
    for step, c in enumerate(cosines):
        history.record(10 * step, report(c))
    return history


@QUARTER
@given(cosines=COSINES, max_points=st.sampled_from([None, 2, 3, 4, 7, 1024]))
def test_the_summary_is_of_all_cosines_whatever_the_bound(cosines, max_points):
    summary = history_of(cosines, max_points=max_points).summary()
    assert set(summary) == {("a", "b"), ("a", "c"), ("b", "c")}
    pair = summary["a", "b"]
    assert pair.mean == pytest.approx(np.mean(cosines), abs=1e-12)
    error = np.std(cosines, ddof=1) / np.sqrt(len(cosines)) if len(cosines) > 1 else math.nan
    assert pair.standard_error == pytest.approx(error, abs=1e-9, nan_ok=True)
    assert pair.conflict_rate == np.mean(np.array(cosines) < 0)
    assert pair.steps == len(cosines)


@QUARTER
@given(cosines=COSINES, max_points=st.integers(2, 9))
def test_points_stand_for_equally_many_steps_and_are_never_more_than_the_bound(cosines, max_points):
    history = ConflictHistory(max_points=max_points)
    for step, c in enumerate(cosines):
        history.record(10 * step, report(c))
        points = history.pairs["a", "b"]
        assert len(points) <= max_points
        (width,) = {p.size for p in points[:-1]} or {points[-1].size}
        assert points[-1].size <= width == 2 ** round(math.log2(width))
    if len(cosines) >= max_points:
        assert len(points) > max_points // 2
    start = 0
    for p in points:
        part = cosines[start : start + p.size]
        start += p.size
        assert p.step == 10 * (start - 1)
        assert p.mean == pytest.approx(np.mean(part), abs=1e-12)
        assert p.squares == pytest.approx(np.var(part) * len(part), abs=1e-12)
        assert p.conflicts == sum(c < 0 for c in part)


@QUARTER
@given(cosines=COSINES, more=COSINES, max_points=st.sampled_from([None, 2, 5, 1024]))
def test_a_history_goes_on_from_json_as_if_it_had_not_stopped(cosines, more, max_points):
    stopped = history_of(cosines, max_points=max_points)
    entries = json.loads(json.dumps(stopped.to_json()))
    resumed = ConflictHistory.from_json(entries, max_points=max_points)
    assert resumed == stopped
    for step, c in enumerate(more, start=len(cosines)):
        resumed.record(10 * step, report(c))
    assert resumed == history_of(cosines + more, max_points=max_points)
    stopped.to_json()[0]["steps"].append(9)
    assert stopped == history_of(cosines, max_points=max_points)


def test_the_json_of_0_1_0_is_read():
    entries = [{"tasks": ["a", "b"], "steps": [1, 5], "cosines": [0.25, -0.125]}]
    history = ConflictHistory.from_json(entries)
    assert history.pairs == {("a", "b"): [(1, 0.25, 1, 0.0, 0), (5, -0.125, 1, 0.0, 1)]}
    assert history.summary()["a", "b"].mean == 0.0625


def test_a_history_of_two_spellings_is_read_as_one():
    entries = [{"tasks": ["a", "b"], "steps": [1], "cosines": [0.25]}]
    entries.append({"part": "x", "tasks": ["b", "a"], "steps": [1], "cosines": [0.5]})
    history = ConflictHistory.from_json(entries)
    for step, tasks in enumerate([("a", "b"), ("b", "a")], start=2):
        history.record(step, report(0.5, tasks=tasks, parts={"x": report(0.5, tasks=tasks)}))
    for found in (history, history.parts["x"]):
        assert [(pair, len(points)) for pair, points in found.pairs.items()] == [(("a", "b"), 3)]


def test_a_long_history_is_read_into_a_small_one():
    history = ConflictHistory.from_json(history_of([0.1] * 40).to_json(), max_points=4)
    history.record(400, report(-0.1))
    assert len(history.pairs["a", "b"]) <= 4
    assert history.summary()["a", "b"].conflict_rate == 1 / 41


def test_a_pair_is_one_in_either_order():
    history = ConflictHistory()
    history.record(0, report(-0.25, tasks=("a", "b")))
    history.record(1, report(-0.75, tasks=("b", "a")))
    assert set(history.pairs) == {("a", "b")}
    assert history.summary()["a", "b"].mean == -0.5


def test_a_step_that_overflowed_spoils_no_mean():
    history = history_of([-0.5, math.nan, math.inf, 0.25])
    assert history.summary()["a", "b"].mean == -0.125
    assert history.summary()["a", "b"].steps == 2
    assert history.summary()["a", "c"].steps == 4
    assert ConflictHistory.from_json(history_of([math.nan]).to_json()).pairs.keys() == {
        ("a", "c"),
        ("b", "c"),
    }


def gradients(rows, tasks, **options):
    rows = torch.tensor(rows, dtype=torch.float64)
    return ConflictReport(tasks, rows @ rows.T, torch.ones(len(tasks)), **options)


def test_a_gradient_that_is_zero_has_no_cosine():
    """As of a task that has no example in three batches of four, and of one that does not reach a part."""
    history = ConflictHistory()
    for step in range(8):
        part = gradients([[1.0], [-1.0 * (step % 4 == 0)], [0.0]], ("a", "b", "c"))
        rows = [[1.0, 0.0], [-1.0 * (step % 4 == 0), 0.0], [0.0, 1.0]]
        history.record(step, gradients(rows, ("a", "b", "c"), parts={"adapter": part}))
    for found in (history, history.parts["adapter"]):
        assert found.summary()["a", "b"] == PairSummary(-1.0, 0.0, 1.0, 2)
    assert history.summary()["a", "c"].steps == 8
    assert set(history.parts["adapter"].pairs) == {("a", "b")}


def test_a_pair_is_spelled_alike_in_every_part():
    """A part that comes later, as where layers are thawed, in steps whose tasks have another order."""
    history = ConflictHistory()
    history.record(0, report(0.5, tasks=("a", "b"), parts={"top": report(0.5, tasks=("a", "b"))}))
    late = {"low": report(-0.5, tasks=("b", "a")), "top": report(0.5, tasks=("b", "a"))}
    history.record(1, report(0.25, tasks=("b", "a"), parts=late))
    overflowed = report(math.inf, tasks=("d", "c"), parts={"low": report(0.5, tasks=("d", "c"))})
    history.record(2, overflowed)
    history.record(3, report(0.5, tasks=("c", "d")))
    assert set(history.pairs) == {("a", "b"), ("d", "c")}
    assert set(history.parts["low"].pairs) == {("a", "b"), ("d", "c")}


def test_parts_have_histories_of_their_own():
    history = ConflictHistory(max_points=2)
    for step in range(5):
        part = report(-0.5 if step else 0.5, tasks=("a", "b"))
        history.record(step, report(0.1, tasks=("a", "b"), parts={"trunk": part}))
    assert history.parts["trunk"].summary()["a", "b"].conflict_rate == 0.8
    assert len(history.parts["trunk"].pairs["a", "b"]) == 2
    assert ConflictHistory.from_json(history.to_json(), max_points=2) == history


def test_the_table_has_a_line_for_each_point():
    history = ConflictHistory(max_points=2)
    for step, c in enumerate([-0.5, 0.25, 0.75]):
        part = report(0.125, tasks=("a", "b"))
        history.record(step, report(c, tasks=("a", "b"), parts={"layer, 1": part}))
    lines = list(csv.DictReader(history.to_csv().splitlines()))
    first, second, *_ = lines
    assert first == {
        "part": "",
        "first": "a",
        "second": "b",
        "step": "1",
        "count": "2",
        "cosine": "-0.125",
        "conflict_rate": "0.5",
    }
    assert (second["step"], second["count"], second["cosine"]) == ("2", "1", "0.75")
    assert [line["part"] for line in lines] == ["", "", "layer, 1", "layer, 1"]


def test_curves_are_logged_to_whatever_has_add_scalar():
    class Writer:
        def __init__(self):
            self.scalars = []

        def add_scalar(self, tag, scalar_value, global_step):
            self.scalars.append((tag, scalar_value, global_step))

    history, writer = ConflictHistory(max_points=2), Writer()
    for step, c in enumerate([-0.5, 0.25, 0.75]):
        history.record(step, report(c, tasks=("a", "b"), parts={"x": report(0.5, tasks=("a", "b"))}))
    history.record(3, report(0.75, tasks=("b", "a"), parts={"x": report(0.5, tasks=("b", "a"))}))
    history.pairs = {("b", "a"): history.pairs["a", "b"]}  # as of a run whose first step had this order
    history.log(writer, prefix="run")
    assert writer.scalars == [
        ("run/cosine/a-b", -0.125, 1),
        ("run/cosine/a-b", 0.75, 3),
        ("run/x/cosine/a-b", 0.5, 1),
        ("run/x/cosine/a-b", 0.5, 3),
    ]


def test_a_bound_below_two_points_is_refused():
    with pytest.raises(
        ValueError, match="max_points must be at least 2, got 1: a curve has two ends; None sets no bound"
    ):
        ConflictHistory(max_points=1)
