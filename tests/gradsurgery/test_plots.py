"""The figure holds the curves it should, and says what is missing."""

import statistics
import subprocess
import sys

import pytest

from gradsurgery import ConflictHistory
from gradsurgery.history import Point
from gradsurgery.plots import plot_conflicts


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


def test_matplotlib_is_imported_by_the_figure_only(monkeypatch):
    code = "import sys, gradsurgery.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib: pip install 'gradsurgery\[plots\]'"):
        plot_conflicts(history(("a", "b")))
