"""The figure holds the curves it should, and says what is missing."""

import math
import statistics
import subprocess
import sys
import warnings
from itertools import pairwise
from statistics import NormalDist

import pytest
import torch

from gradsurgery import ConflictHistory, ConflictReport
from gradsurgery.history import Point
from gradsurgery.plots import plot_breakdown, plot_conflicts, plot_cosines


def history(*pairs, steps=6):
    found = ConflictHistory()
    for n, pair in enumerate(pairs):
        found.pairs[pair] = [Point.of(10 * k, (-1) ** k * (k + n) / 20) for k in range(steps)]
    return found


def test_curves_are_running_means_and_points_are_rates(tmp_path):
    real, null = history(("sst", "qqp"), ("sst", "sts")), history(("sst", "sst again"))
    figure = plot_conflicts(real, null=null, window=4)
    curves, rates = figure.axes
    lines = {line.get_label(): line for line in curves.lines}
    line = lines["sst × qqp"]
    cosines = [point.mean for point in real.pairs["sst", "qqp"]]
    assert line.get_xdata().tolist() == [30, 40, 50]
    assert line.get_ydata().tolist() == pytest.approx(
        [statistics.fmean(cosines[k : k + 4]) for k in range(3)]
    )
    assert {"sst × sts", "sst × sst again (null)"} < set(lines)
    assert [label.get_text() for label in rates.get_yticklabels()][2] == "sst × sst again (null)"
    points = [container.lines[0].get_xdata()[0] for container in rates.containers]
    assert points == [summary.conflict_rate for h in (real, null) for summary in h.summary().values()]
    figure.savefig(tmp_path / "conflicts.png")
    assert (tmp_path / "conflicts.png").read_bytes().startswith(b"\x89PNG")


def test_a_window_longer_than_the_history_gives_one_point():
    curves, _ = plot_conflicts(history(("a", "b")), window=100).axes
    assert curves.lines[0].get_xdata().tolist() == [50]


def test_the_axis_states_how_many_measurements_a_mean_is_of():
    long = ConflictHistory(max_points=4)
    for step in range(17):
        long.record(step, report(2))
    for found, window, says in (
        (history(("a", "b"), steps=3), 50, "mean of 3 "),
        (history(("a", "b")), 4, "mean of 4 "),
        (long, 2, "mean of 8 to 9 "),
    ):
        curves, _ = plot_conflicts(found, window=window).axes
        assert says in curves.get_ylabel()


def test_nulls_are_told_apart_and_a_rate_of_one_is_not_certain():
    found = ConflictHistory()
    found.pairs["a", "b"] = [Point.of(step, -0.5) for step in range(3)]
    curves, rates = plot_conflicts(found, null=history(("a", "a again"), ("b", "b again"))).axes
    assert len({line.get_linestyle() for line in curves.lines[1:3]}) == 2
    (bar,) = rates.containers[0].lines[2][0].get_segments()
    assert bar[:, 0] == pytest.approx([3 / (3 + NormalDist().inv_cdf(0.975) ** 2), 1.0])  # Wilson's


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="history must hold a pair of tasks, got none"):
        plot_conflicts(ConflictHistory())
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        plot_conflicts(history(("a", "b")), window=0)


def report(tasks, parts=()):
    generator = torch.Generator().manual_seed(tasks)
    names = tuple("abcdefgh"[:tasks])

    def one(found):
        rows = torch.randn(tasks, 6, generator=generator, dtype=torch.float64)
        return ConflictReport(names, rows @ rows.T, torch.ones(tasks), found)

    return one({name: one({}) for name in parts})


@pytest.mark.parametrize("tasks", [2, 8])
def test_the_matrix_shows_every_cosine(tasks):
    found = report(tasks)
    axes, _ = plot_cosines(found).axes
    torch.testing.assert_close(torch.tensor(axes.images[0].get_array().tolist()).double(), found.cosines)
    assert axes.images[0].get_clim() == (-1, 1)
    shown = [float(text.get_text()) for text in axes.texts]
    assert shown == pytest.approx(found.cosines.flatten().tolist(), abs=0.0051)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(found.tasks)


def test_the_breakdown_shows_every_pair_in_every_part():
    found = report(3, parts=["embed", "layer 0", "layer 1"])
    (axes,) = plot_breakdown(found).axes
    lines = {container.get_label(): container.lines[0].get_ydata() for container in axes.containers}
    for first, second in found.pairs:
        assert list(lines[f"{first} × {second}"]) == [p.pairs[first, second] for p in found.parts.values()]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(found.parts)


def test_the_breakdown_of_many_pairs_is_a_matrix():
    found = report(8, parts=["embed", "layer 0"])
    axes, _ = plot_breakdown(found).axes
    shown = axes.images[0].get_array().tolist()
    assert shown == [[p.pairs[pair] for p in found.parts.values()] for pair in found.pairs]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        " × ".join(pair) for pair in found.pairs
    ]


def test_the_breakdown_of_a_history_has_means_and_errors():
    found = ConflictHistory()
    reports = [report(2, parts=["embed", "layer 0"]), report(3, parts=["embed", "layer 0"])]
    for step, one in enumerate(reports):
        found.record(step, one)
    (axes,) = plot_breakdown(found).axes
    line, _, (bars,) = axes.containers[0].lines
    cosines = [[one.parts[name].pairs["a", "b"] for one in reports] for name in ("embed", "layer 0")]
    assert line.get_ydata() == pytest.approx([statistics.fmean(pair) for pair in cosines])
    lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    assert lengths == pytest.approx([2 * statistics.stdev(pair) / 2**0.5 for pair in cosines])


def test_of_many_pairs_the_lowest_are_in_colour_and_everything_fits(tmp_path):
    tasks = "abcdefgh"
    pairs = [(one, other) for k, one in enumerate(tasks) for other in tasks[k + 1 :]]
    found = ConflictHistory()
    for n, pair in enumerate(pairs):
        found.pairs[pair] = [Point.of(step, (-1) ** step / 4 + n / 100) for step in range(6)]
    figure = plot_conflicts(found, null=history(*((task, f"{task} again") for task in tasks)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a figure without room warns
        figure.savefig(tmp_path / "conflicts.png")
    (legend,) = figure.legends
    lowest = [f"{one} × {other}" for one, other in pairs[:5]]
    entries = [text.get_text() for text in legend.get_texts()]
    assert entries == [*lowest, "other pairs", "one task, two batches (null)"]
    rows = [label.get_window_extent() for label in figure.axes[1].get_yticklabels()]
    assert len(rows) == 36
    assert not any(a.overlaps(b) for a, b in pairwise(rows))


def test_a_report_without_pairs_or_parts_is_refused():
    for draw in (plot_cosines, plot_breakdown):
        with pytest.raises(ValueError, match="report must be of two tasks or more, got 1"):
            draw(report(1))
    with pytest.raises(ValueError, match="report must be broken down, got one without parts"):
        plot_breakdown(report(2))
    zero = ConflictReport(("a", "b"), torch.zeros(2, 2), torch.ones(2))
    empty = ConflictHistory()
    empty.record(0, ConflictReport(("a", "b"), zero.gramian, zero.weights, {"x": zero}))
    with pytest.raises(ValueError, match="history must hold a pair of tasks, got none"):
        plot_breakdown(empty)
    with pytest.raises(ValueError, match="history must be broken down, got one without parts"):
        plot_breakdown(history(("a", "b")))


def test_matplotlib_is_imported_by_the_figure_only(monkeypatch):
    code = "import sys, gradsurgery.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib: pip install 'gradsurgery\[plots\]'"):
        plot_conflicts(history(("a", "b")))
    with pytest.raises(ImportError, match="needs matplotlib"):
        plot_cosines(report(2))


def test_a_step_that_overflowed_is_drawn_as_far_as_it_can_be():
    part = ConflictReport(("a", "b"), torch.full((2, 2), math.nan), torch.ones(2))
    (axes,) = plot_breakdown(ConflictReport(("a", "b"), part.gramian, part.weights, {"x": part})).axes
    assert all(map(math.isnan, axes.containers[0].lines[0].get_ydata()))
