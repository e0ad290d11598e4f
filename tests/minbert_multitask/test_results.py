"""Results: read back equal, refused when they are anything else, and summed up."""

import csv
import json
import math
from dataclasses import asdict, replace
from unittest.mock import patch

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from minbert_multitask.data import SPLITS, Dataset, Example
from minbert_multitask.evaluate import Score, Scores
from minbert_multitask.results import (
    ConflictSample,
    CosineSummary,
    DataInfo,
    Epoch,
    RunResult,
    WeightsInfo,
    collect,
    write_summary,
)

METRICS = ("sst", "qqp", "sts", "overall")
TEXT = st.text(max_size=6)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
NAMED = st.dictionaries(TEXT, NUMBERS, max_size=3)
SCORES = st.builds(Score, NUMBERS, NUMBERS, NUMBERS, st.booleans())
COUNTS = st.integers(0, 10**12)
RUNS = st.builds(
    RunResult,
    row=TEXT,
    seed=COUNTS,
    data=st.builds(
        DataInfo,
        name=TEXT,
        fingerprint=TEXT,
        sizes=st.dictionaries(TEXT, st.dictionaries(TEXT, COUNTS, max_size=2), max_size=2),
        constant=NAMED,
    ),
    weights=st.builds(WeightsInfo, name=TEXT, layers=COUNTS),
    config=st.dictionaries(TEXT, st.none() | COUNTS | NUMBERS | TEXT, max_size=3),
    versions=st.dictionaries(TEXT, TEXT, max_size=3),
    epochs=st.lists(
        st.builds(
            Epoch,
            epoch=COUNTS,
            iterations=COUNTS,
            train_loss=NAMED,
            dev=NAMED,
            train=st.none() | NAMED,
            seconds=NUMBERS,
        ),
        max_size=2,
    ).map(tuple),
    best_epoch=st.none() | COUNTS,
    dev=st.builds(Scores, SCORES, SCORES, SCORES, SCORES),
    conflicts=st.lists(
        st.builds(ConflictSample, epoch=COUNTS, iteration=COUNTS, cosines=NAMED, null=NAMED), max_size=2
    ).map(tuple),
    seconds=NUMBERS,
    peak_memory_bytes=COUNTS,
)


def a_run(row="gse", *, loss=0.7, overall=0.55):
    scores = {"sst": 0.4, "qqp": 0.7, "sts": 0.2, "overall": overall}
    return RunResult(
        row=row,
        seed=11711,
        data=DataInfo(name="demo", fingerprint="c0ffee", sizes={"sst": {"dev": 3}}, constant=scores),
        weights=WeightsInfo(name="minilm", layers=6),
        config={"epochs": 2, "lr": 1e-5, "layers": None, "device": "cpu"},
        versions={"torch": "2.13.0"},
        epochs=tuple(
            Epoch(epoch=i, iterations=5, train_loss={"sst": loss}, dev=scores, train=None, seconds=1.5 * i)
            for i in range(2)
        ),
        best_epoch=1,
        dev=Scores(
            *(Score(value, value - 0.1, value + 0.1, metric == "sts") for metric, value in scores.items())
        ),
        conflicts=(ConflictSample(epoch=0, iteration=3, cosines={"sst-qqp": -0.1}, null={"sst": 0.2}),),
        seconds=12.345,
        peak_memory_bytes=1 << 30,
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


# One run


@settings(max_examples=60)
@given(RUNS)
def test_a_result_is_read_back_equal(shared, run):
    run.save(shared / "result.json")
    assert RunResult.load(shared / "result.json") == run


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null_in_the_file_and_nan_when_read(tmp_path, value):
    path = tmp_path / "result.json"
    a_run(loss=value).save(path)
    text = path.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text)["runs"][0]["epochs"][0]["train_loss"] == {"sst": None}
    assert math.isnan(RunResult.load(path).epochs[0].train_loss["sst"])


def test_the_file_says_what_it_is_and_other_programs_read_it(tmp_path):
    a_run().save(tmp_path / "runs" / "gse" / "result.json")
    content = json.loads((tmp_path / "runs" / "gse" / "result.json").read_text())
    assert content.keys() == {"format", "version", "runs"}
    assert (content["format"], content["version"]) == ("minbert-multitask result", 1)
    (run,) = content["runs"]
    assert run["dev"]["sts"] == {"value": 0.2, "low": 0.1, "high": pytest.approx(0.3), "flagged": True}
    assert (run["row"], run["best_epoch"], run["config"]["layers"]) == ("gse", 1, None)


def test_a_full_disk_leaves_the_former_result(tmp_path):
    path = tmp_path / "result.json"
    a_run("gs").save(path)
    with (
        patch("os.fsync", side_effect=OSError(28, "No space left on device")),
        pytest.raises(OSError, match="No space"),
    ):
        a_run("gse").save(path)
    assert RunResult.load(path).row == "gs"
    assert list(tmp_path.iterdir()) == [path]


# Files that are no results


def changed(**changes):
    """The content of a good file with some of its values changed."""
    content = {"format": "minbert-multitask result", "version": 1, "runs": [json.loads(RUN)], **changes}
    return json.dumps(content).encode()


def changed_run(*place, value):
    run = json.loads(RUN)
    inner = run
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return changed(runs=[run])


RUN = json.dumps(asdict(a_run()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r" is truncated or no JSON \(.*\); train the row again"),
        (b"\xff\xfe\x00", r" is truncated or no JSON \(.*\); train the row again"),
        (b"[" * 100_000, r" is truncated or no JSON \(.*\); train the row again"),
        (b"[]", r" is no result of this program; give a folder of runs"),
        (b'{"model_type": "bert"}', r" is no result of this program"),
        (changed(format="another program's"), r" is no result of this program"),
        (changed(version=2), r" has version 2, but this program reads 1; train again"),
        (changed(version="1\n"), r" has version '1\\n', but this program reads 1"),
        (changed(version=None), r" has version None, but"),
        (changed(runs=None), r": runs must be tuple, got 'None'; train the row again"),
        (changed(runs={}), r": runs must be tuple, got '{}'"),
        (changed(runs=[]), r" must hold one run, got 0; read a summary with collect\(\)"),
        (changed(runs=[json.loads(RUN)] * 2), r" must hold one run, got 2; read a summary"),
        (changed(runs=[{}]), r": runs\[0\] must have row, seed, .*, got \[\]; train the row again"),
        (changed_run("row", value=3), r": runs\[0\].row must be str, got '3'"),
        (changed_run("seed", value=True), r": runs\[0\].seed must be int, got 'True'"),
        (changed_run("best_epoch", value=0.5), r": runs\[0\].best_epoch must be int, got '0.5'"),
        (changed_run("dev", "sst", value=0.5), r": runs\[0\].dev.sst must be Score, got '0.5'"),
        (changed_run("dev", "sts", "flagged", value=1), r": runs\[0\].dev.sts.flagged must be bool, got '1'"),
        (
            changed_run("epochs", 1, "train_loss", "sst", value="low"),
            r": runs\[0\].epochs\[1\].train_loss\['sst'\] must",
        ),
        (changed_run("more", value=1), r": runs\[0\] must have row, "),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path}{message}") as caught:
        RunResult.load(path)
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "result.json"
    a_run().save(path)
    content = path.read_bytes().rstrip()
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=f"^{path} is truncated or no JSON") as caught:
            RunResult.load(path)
        assert "\n" not in str(caught.value)


@settings(max_examples=150)
@given(st.data())
def test_any_bytes_are_a_result_or_one_line(shared, data):
    path = shared / "damaged.json"
    content = changed()
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    paste = st.one_of(
        st.binary(max_size=6), st.sampled_from([b"null", b"1e999", b"9" * 400, b"{}", b"[]", b"true", b'"'])
    )
    path.write_bytes(content[:start] + data.draw(paste) + content[min(stop, start + 12) :])
    try:
        result = RunResult.load(path)
    except ValueError as error:
        result = str(error)
    if isinstance(result, str):
        assert result.startswith(str(path))
        assert "\n" not in result
    else:
        assert isinstance(result, RunResult)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        RunResult.load(tmp_path / "result.json")


# Many runs


def test_collect_reads_every_result_below_a_folder_in_the_order_of_paths(tmp_path):
    for row in ("smart", "baseline", "gse"):
        a_run(row).save(tmp_path / "runs" / row / "result.json")
    (tmp_path / "runs" / "unfinished").mkdir()
    (tmp_path / "runs" / "results.json").write_text("not a run's")
    assert [run.row for run in collect(tmp_path)] == ["baseline", "gse", "smart"]
    assert [run.row for run in collect(tmp_path / "runs" / "smart")] == ["smart"]


@pytest.mark.parametrize("name", ["", "missing"])
def test_a_folder_without_results_is_refused(tmp_path, name):
    with pytest.raises(
        ValueError, match=r"holds no finished run \(no result.json\); train a row into it first"
    ):
        collect(tmp_path / name)


def test_one_bad_result_among_good_ones_is_named(tmp_path):
    a_run().save(tmp_path / "a" / "result.json")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "result.json").write_text("{")
    with pytest.raises(ValueError, match=f"^{tmp_path / 'b' / 'result.json'} is truncated"):
        collect(tmp_path)


def test_a_summary_is_read_back_whole(tmp_path):
    runs = [a_run("baseline"), a_run("gse")]
    paths = write_summary(runs, tmp_path / "summary")
    assert [path.name for path in paths] == ["results.json", "results.csv"]
    assert collect(paths[0]) == runs


def test_the_summarys_csv_has_a_line_a_run_that_a_spreadsheet_reads(tmp_path):
    runs = [
        a_run("baseline"),
        a_run('odd, "quoted"\nrow'),
        replace(a_run("zero-shot"), epochs=(), best_epoch=None),
    ]
    path = write_summary(runs, tmp_path)[1]
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["row"] for line in lines] == ["baseline", 'odd, "quoted"\nrow', "zero-shot"]
    assert [line["best_epoch"] for line in lines] == ["1", "1", ""]
    assert [line["iterations"] for line in lines] == ["10", "10", "0"]
    for metric in METRICS:
        score = runs[0].dev[metric]
        assert float(lines[0][metric]) == score.value
        assert float(lines[0][f"{metric}_low"]) == score.low
        assert float(lines[0][f"{metric}_high"]) == score.high
        assert lines[0][f"{metric}_constant_prediction"] == str(score.flagged)
    expected = {
        "seed": "11711",
        "data": "demo",
        "data_fingerprint": "c0ffee",
        "weights": "minilm",
        "layers": "6",
    }
    expected |= {"seconds": "12.3", "peak_memory_bytes": str(1 << 30)}
    assert expected.items() <= lines[0].items()


# Data and cosines


def test_the_datas_description_counts_and_scores_the_best_constant():
    labels = {"sst": [3.0, 3.0, 1.0], "qqp": [1.0, 0.0, 0.0, 0.0], "sts": [2.5, 5.0]}
    sizes = {"train": 1, "test": 2}
    examples = {
        (task, split): tuple(
            Example(f"{i}", "a", None, None if split == "test" else label)
            for i, label in enumerate(labels[task] if split == "dev" else labels[task][: sizes[split]])
        )
        for task in labels
        for split in SPLITS
    }
    dataset = Dataset(examples)
    info = DataInfo.of("demo", dataset)
    assert info.sizes == {task: {"train": 1, "dev": len(labels[task]), "test": 2} for task in labels}
    assert info.constant == pytest.approx(
        {"sst": 2 / 3, "qqp": 3 / 4, "sts": 0, "overall": (2 / 3 + 3 / 4 + 1 / 2) / 3}
    )
    assert (info.name, info.fingerprint) == ("demo", dataset.fingerprint)


@given(st.lists(st.floats(-1, 1), min_size=2), st.lists(st.sampled_from([math.nan, math.inf, -math.inf])))
def test_cosines_are_summed_up_as_scipy_does_and_without_what_is_not_finite(cosines, others):
    found = CosineSummary.of([*others, *cosines])
    assert found.count == len(cosines)
    assert found.mean == pytest.approx(np.mean(cosines))
    assert found.standard_error == pytest.approx(scipy.stats.sem(cosines), abs=1e-12)
    assert found.below_zero == pytest.approx(sum(c < 0 for c in cosines) / len(cosines))


@pytest.mark.filterwarnings("error")
def test_one_cosine_has_no_error_and_none_has_no_mean():
    one = CosineSummary.of(iter([-0.5]))
    assert (one.count, one.mean, one.below_zero) == (1, -0.5, 1)
    assert math.isnan(one.standard_error)
    none = CosineSummary.of([math.nan])
    assert none.count == 0
    assert all(map(math.isnan, (none.mean, none.standard_error, none.below_zero)))
