"""The figure holds the curves it should, and says what is missing."""

import statistics
import subprocess
import sys

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
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    for first, second in found.pairs:
        assert list(lines[f"{first} × {second}"]) == [p.pairs[first, second] for p in found.parts.values()]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(found.parts)


def test_a_report_without_pairs_or_parts_is_refused():
    for draw in (plot_cosines, plot_breakdown):
        with pytest.raises(ValueError, match="report must be of two tasks or more, got 1"):
            draw(report(1))
    with pytest.raises(ValueError, match="report must be broken down, got one without parts"):
        plot_breakdown(report(2))


def test_matplotlib_is_imported_by_the_figure_only(monkeypatch):
    code = "import sys, gradsurgery.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib: pip install 'gradsurgery\[plots\]'"):
        plot_conflicts(history(("a", "b")))
    with pytest.raises(ImportError, match="needs matplotlib"):
        plot_cosines(report(2))
