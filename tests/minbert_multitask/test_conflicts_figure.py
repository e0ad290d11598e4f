"""The picture of the conflicts draws every cosine, its mean and its share below zero beside the null's."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from minbert_multitask.conflicts_figure import conflicts_figure, smooth
from minbert_multitask.experiments import EXPERIMENTS
from minbert_multitask.results import CosineSummary

from tests.minbert_multitask.made_up import TASKS, figure_of, lines, panels, run

PAIRS = ("sst-qqp", "sst-sts", "qqp-sts")


def test_cosines_are_drawn_with_the_null_below_them():
    result = run("multitask")
    found = panels(figure_of(conflicts_figure, [result, run("baseline")]))
    at = [sample.epoch * 20 + sample.iteration for sample in result.conflicts]
    for which, panel in zip([*PAIRS, *TASKS], found[:6], strict=True):
        values = [{**sample.cosines, **sample.null}[which] for sample in result.conflicts]
        (points,) = lines(panel, which)
        np.testing.assert_allclose(points, [at, values])
        (curve,) = lines(panel, "_smooth")
        np.testing.assert_allclose(curve[0], at)
        summary = CosineSummary.of(values)
        assert (
            f"{summary.mean:.3f} ± {summary.standard_error:.3f}, {summary.below_zero:.0%} < 0"
            in panel.get_title(loc="left")
        )
    assert len({panel.get_ylim() for panel in found[:6]}) == 1


def test_every_rows_means_and_shares_are_drawn_beside_their_null():
    results = {row: [run(row)] for row in EXPERIMENTS if row != "zero-shot"}
    results["gs"].append(run("gs", seed=4))
    found = panels(figure_of(conflicts_figure, [r for runs in results.values() for r in runs]))[6:]
    for panel, names, statistic in zip(
        found, (PAIRS, TASKS, PAIRS, TASKS), ("mean", "mean", "below_zero", "below_zero"), strict=True
    ):
        for which in names:
            (points,) = lines(panel, which)
            for row, (value, at) in enumerate(points.T):
                samples = [s for result in list(results.values())[row] for s in result.conflicts]
                summary = CosineSummary.of([{**s.cosines, **s.null}[which] for s in samples])
                assert math.isclose(value, getattr(summary, statistic))
                assert round(at) == row
    assert [label.get_text() for label in found[0].get_yticklabels()] == list(results)
    assert found[0].get_xlim() == found[1].get_xlim()


def test_error_bars_are_the_standard_error_and_wilsons():
    result = run("gs")
    found = panels(figure_of(conflicts_figure, [result]))[6:]
    values = np.array([sample.cosines["sst-qqp"] for sample in result.conflicts])
    (mean_bar, *_), (share_bar, *_) = (
        [c.get_segments()[0] for c in panel.collections if c.get_label() == "_error"] for panel in found[::2]
    )
    error = values.std(ddof=1) / len(values) ** 0.5
    np.testing.assert_allclose(mean_bar[:, 0], [values.mean() - error, values.mean() + error])
    share, n = (values < 0).mean(), len(values)
    for end in share_bar[
        :, 0
    ]:  # where the share lies one standard error, taken there, from what was observed
        assert math.isclose(abs(end - share), (end * (1 - end) / n) ** 0.5)
    assert share_bar[0, 0] < share < share_bar[1, 0]


def test_cosines_that_are_not_finite_are_left_out():
    result = run("gs")
    result.conflicts[0].cosines["sst-qqp"] = math.nan
    for sample in result.conflicts:
        sample.null["sts"] = math.nan
    figure = figure_of(conflicts_figure, [result])
    found = panels(figure)
    assert lines(found[0], "sst-qqp")[0].shape == (2, len(result.conflicts) - 1)
    assert found[5].get_title(loc="left") == "STS twice: none"
    figure.draw_without_rendering()


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(-1, 1)), min_size=1, max_size=20), st.floats(0.5, 50))
def test_smoothing_is_the_mean_weighted_by_a_gaussian(samples, bandwidth):
    at, values = np.array(samples).T
    for where, smoothed in zip(at, smooth(at, values, bandwidth), strict=True):
        weights = [math.exp(-(((where - x) / bandwidth) ** 2) / 2) for x in at]
        expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        assert math.isclose(smoothed, expected, abs_tol=1e-12)
