"""All rows with their intervals beside the paper's scores, and the trade-off between tasks."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from minbert_multitask.experiments import EXPERIMENTS
from minbert_multitask.families import families
from minbert_multitask.intervals import mean_score
from minbert_multitask.rows_figure import rows_figure
from minbert_multitask.table import PAPER
from minbert_multitask.tradeoff_figure import tradeoff_figure

from tests.minbert_multitask.made_up import CONSTANT, METRICS, figure_of, lines, panels, run

ONE_SEED = "the bootstrap's over dev examples; the luck of the seed is not in it"
SEVERAL_SEEDS = "two errors added in squares"


def results(*, seeds, epochs=3):
    return {row: [run(row, seed=seed, epochs=epochs) for seed in range(seeds)] for row in EXPERIMENTS}


def figure(draw_one, rows):
    return figure_of(draw_one, [result for runs in rows.values() for result in runs])


def caption(drawn):
    return " ".join(drawn.texts[-1].get_text().split())


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("epochs", [1, 3])
def test_every_row_is_a_point_with_an_interval_beside_the_papers(seeds, epochs):
    rows = results(seeds=seeds, epochs=epochs)
    found = panels(figure(rows_figure, rows))
    assert len(found) == len(METRICS)
    at = {label.get_text(): number for number, label in enumerate(found[0].get_yticklabels())}
    for metric, panel in zip(METRICS, found, strict=True):
        assert set(lines(panel, "_constant")[0][0]) == {CONSTANT[metric]}
        seeds_drawn = [line.tolist() for line in lines(panel, "_seeds")]
        assert len(seeds_drawn) == (len(rows) if seeds > 1 else 0)
        for row, runs in rows.items():
            scores = [result.dev[metric] for result in runs]
            mean = mean_score(scores)
            (point,), (interval,) = lines(panel, row), lines(panel, f"_{row}")
            np.testing.assert_allclose(point, [[mean.value], [at[row]]])
            np.testing.assert_allclose(interval, [[mean.low, mean.high], [at[row], at[row]]])
            if seeds > 1:
                assert [[score.value for score in scores], [at[row]] * seeds] in seeds_drawn
            paper = lines(panel, f"_paper's {row}")
            assert len(paper) == (PAPER.get(row) is not None)
            if paper:
                np.testing.assert_allclose(paper[0], [[PAPER[row][metric]], [at[row]]])
        zero_shot = mean_score([result.dev[metric] for result in rows["zero-shot"]])
        assert set(lines(panel, "_untrained")[0][0]) == {zero_shot.value}


def test_rows_are_below_their_familys_title_in_the_looks_of_the_other_figures():
    (first, *_) = panels(figure(rows_figure, results(seeds=1)))
    expected = ["zero-shot"]
    for family in families(EXPERIMENTS):
        expected += [family.title, *family.members]
        for row, look in family.members.items():
            (line,) = (line for line in first.lines if line.get_label() == row)
            assert (line.get_color(), line.get_marker()) == (look.color, look.marker)
    labels = first.get_yticklabels()
    assert [label.get_text() for label in labels] == expected
    bold = {label.get_text() for label in labels if label.get_fontweight() == "bold"}
    assert bold == {family.title for family in families(EXPERIMENTS)}


@pytest.mark.parametrize("draw_one", [rows_figure, tradeoff_figure])
def test_the_caption_says_which_errors_the_intervals_have(draw_one):
    one, three = results(seeds=1), results(seeds=3)
    assert ONE_SEED in caption(figure(draw_one, one))
    assert SEVERAL_SEEDS not in caption(figure(draw_one, one))
    assert SEVERAL_SEEDS in caption(figure(draw_one, three))
    assert ONE_SEED not in caption(figure(draw_one, three))
    if draw_one is rows_figure:
        assert "(for overall, in a task), in at least one of the runs." in caption(figure(draw_one, three))
        assert "(for overall, in a task)." in caption(figure(draw_one, one))
    both = caption(figure(draw_one, {**three, "gs": one["gs"]}))
    assert ONE_SEED in both
    assert SEVERAL_SEEDS in both


def test_the_caption_says_in_what_the_papers_runs_differ():
    text = caption(figure_of(rows_figure, [run("gs")]))
    assert "Crosses: the paper's dev scores, single runs, measured with other data" in text
    assert "other weights (bert-base-uncased, 12 layers), another schedule" in text
    assert "compare gaps between rows, not levels" in text
    same = run("gs", epochs=10, iterations=755, batch_size=8, lr=1e-5, weights="bert-base-uncased", layers=12)
    same.data.sizes["qqp"]["dev"] = 40429
    assert "Crosses: the paper's dev scores, single runs. " in caption(figure_of(rows_figure, [same]))
    assert "Crosses" not in caption(figure_of(rows_figure, [run("smart-gse"), run("gse-reuse")]))


def test_a_constant_prediction_is_hollow():
    flagged = run("gs", epochs=1)
    flagged = replace(flagged, dev=replace(flagged.dev, sts=replace(flagged.dev.sts, flagged=True)))
    found = panels(figure_of(rows_figure, [flagged]))
    faces = [
        to_rgb(next(x for x in panel.lines if x.get_label() == "gs").get_markerfacecolor()) for panel in found
    ]
    assert [face == (1, 1, 1) for face in faces] == [False, False, True, False]


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_trade_off_has_every_row_in_its_family_and_all_others_in_grey(seeds):
    rows = results(seeds=seeds)
    means = {
        row: {metric: mean_score([result.dev[metric] for result in runs]) for metric in METRICS}
        for row, runs in rows.items()
    }
    bands = families(EXPERIMENTS)
    found = panels(figure(tradeoff_figure, rows))
    assert len(found) == 2 * len(bands)
    for number, panel in enumerate(found):
        metric, family = ("qqp", "sts")[number % 2], bands[number // 2]
        for row in rows.keys() - {"zero-shot"}:
            x, y = means[row]["sst"], means[row][metric]
            in_colour, in_grey = lines(panel, row), lines(panel, f"_{row}")
            assert (len(in_colour), len(in_grey)) == ((1, 0) if row in family.looks else (0, 1))
            np.testing.assert_allclose((in_colour + in_grey)[0], [[x.value], [y.value]])
            if in_colour:
                (across,), (up,) = (lines(panel, f"_{row}, interval of {which}") for which in ("sst", metric))
                np.testing.assert_allclose(across, [[x.low, x.high], [y.value, y.value]])
                np.testing.assert_allclose(up, [[x.value, x.value], [y.low, y.high]])
        for label, x, y in (
            ("_constant", CONSTANT["sst"], CONSTANT[metric]),
            ("_untrained", means["zero-shot"]["sst"].value, means["zero-shot"][metric].value),
        ):
            upright, level = lines(panel, label)
            assert (set(upright[0]), set(level[1])) == ({x}, {y})
    assert len({panel.get_xlim() for panel in found}) == 1
    assert len({panel.get_ylim() for panel in found[::2]}) == 1


def test_a_trade_off_takes_two_trained_rows():
    assert figure_of(tradeoff_figure, [run("gs"), run("zero-shot")]) is None
    assert figure_of(tradeoff_figure, [run("gs"), run("gse")]) is not None
