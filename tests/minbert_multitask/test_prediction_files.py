"""Prediction files: the handout's form to the byte, for other people's scorers, and read back equal."""

import re
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minbert_multitask import prediction_files
from minbert_multitask.data import Dataset, Example
from minbert_multitask.evaluate import TaskPredictions, score
from minbert_multitask.prediction_files import read_predictions, write_predictions

TASKS = ("sst", "qqp", "sts")
NAMES = {"sst": "sst", "qqp": "para", "sts": "sts"}
HIGHEST = {"sst": 4, "qqp": 1, "sts": 5}


def examples_of(labels, split="dev"):
    return {
        (task, split): tuple(
            Example(f"{task}-{i}", "Rain.", None if task == "sst" else "Sun.", label)
            for i, label in enumerate(labels[task])
        )
        for task in TASKS
    }


DATASET = Dataset(examples_of({"sst": (3.0, 0.0), "qqp": (1.0, 0.0), "sts": (2.5, 5.0)}))
PREDICTED = {"sst": [4, 0], "qqp": [1, 1], "sts": [0.1, 4.75]}


def predictions(dataset=DATASET, predicted=PREDICTED, split="dev"):
    return {task: TaskPredictions.of(dataset[task, split], predicted[task]) for task in TASKS}


# What is written


def test_the_files_are_the_handouts_to_the_byte(tmp_path):
    paths = write_predictions(predictions(), "dev", tmp_path / "predictions")
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "predictions/sst-dev-output.csv",
        "predictions/para-dev-output.csv",
        "predictions/sts-dev-output.csv",
    ]
    assert [path.read_bytes() for path in paths] == [
        b"id \t Predicted_Sentiment \nsst-0 , 4 \nsst-1 , 0 \n",
        b"id \t Predicted_Is_Paraphrase \nqqp-0 , 1 \nqqp-1 , 1 \n",
        b"id \t Predicted_Similiary \nsts-0 , 0.1 \nsts-1 , 4.75 \n",
    ]


def test_test_files_have_the_same_form_without_labels(tmp_path):
    unlabelled = Dataset(examples_of(dict.fromkeys(TASKS, (None, None)), "test"))
    found = predictions(unlabelled, split="test")
    paths = write_predictions(found, "test", tmp_path)
    assert [path.name for path in paths] == [f"{NAMES[task]}-test-output.csv" for task in TASKS]
    assert paths[0].read_bytes() == b"id \t Predicted_Sentiment \nsst-0 , 4 \nsst-1 , 0 \n"
    assert read_predictions(tmp_path, "test", unlabelled)["sst"].gold is None


def foreign_scorer(folder, dataset):
    """A scorer of another hand: the files by their names, the rows by a regular expression."""
    scores = {}
    for task, stem in (("sst", "sst"), ("qqp", "para"), ("sts", "sts")):
        lines = (folder / f"{stem}-dev-output.csv").read_text(encoding="utf-8").split("\n")
        assert re.fullmatch(r"id \t Predicted_(Sentiment|Is_Paraphrase|Similiary) ", lines[0])
        assert lines[-1] == ""
        found = {}
        for line in lines[1:-1]:
            name, value = re.fullmatch(r"(.*) , (\S+) ", line, re.DOTALL).groups()
            found[name] = float(value) if task == "sts" else int(value)
        gold = {example.id: example.label for example in dataset[task, "dev"]}
        assert found.keys() == gold.keys()
        if task == "sts":
            scores[task] = np.corrcoef([found[i] for i in gold], list(gold.values()))[0, 1]
        else:
            scores[task] = sum(found[i] == gold[i] for i in gold) / len(gold)
    scores["overall"] = (scores["sst"] + scores["qqp"] + (scores["sts"] + 1) / 2) / 3
    return scores


def test_another_scorer_reads_the_files_and_finds_our_scores(tmp_path):
    rng = np.random.default_rng(0)
    gold = {"sst": rng.integers(0, 5, 40), "qqp": rng.integers(0, 2, 40), "sts": rng.uniform(0, 5, 40)}
    dataset = Dataset(examples_of({task: labels.astype(float).tolist() for task, labels in gold.items()}))
    guesses = {"sst": rng.integers(0, 5, 40), "qqp": rng.integers(0, 2, 40), "sts": rng.normal(2, 2, 40)}
    found = predictions(dataset, guesses)
    write_predictions(found, "dev", tmp_path)
    assert score(found, resamples=1).values() == pytest.approx(foreign_scorer(tmp_path, dataset))


# What is read back

# Carriage returns and line feeds end a row; nothing else may, not even what str.splitlines() cuts at.
IDS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1),
    st.sampled_from(
        [" , ", "a , 1 ", "\u2028", "\x85", "\x0b", "\x1c", "id", "id \t Predicted_Sentiment ", " "]
    ),
)


@st.composite
def predicted_datasets(draw):
    examples, predicted = {}, {}
    for task in TASKS:
        ids = draw(st.lists(IDS, min_size=1, max_size=4, unique=True))
        label = st.floats(0, 5) if task == "sts" else st.integers(0, HIGHEST[task]).map(float)
        examples[task, "dev"] = tuple(Example(name, "", None, draw(label)) for name in ids)
        value = st.floats(allow_nan=False) if task == "sts" else st.integers(0, HIGHEST[task]).map(float)
        predicted[task] = [draw(value) for _ in ids]
    return Dataset(examples), predicted


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("predictions")


@settings(max_examples=100)
@given(predicted_datasets())
def test_what_is_written_is_read_back_equal(shared, case):
    dataset, predicted = case
    written = predictions(dataset, predicted)
    write_predictions(written, "dev", shared)
    found = read_predictions(shared, "dev", dataset)
    for task in TASKS:
        assert found[task].ids == written[task].ids
        np.testing.assert_array_equal(found[task].predicted, written[task].predicted)
        np.testing.assert_array_equal(found[task].gold, written[task].gold)


def test_rows_are_found_by_id_in_any_order(tmp_path):
    write_predictions(predictions(), "dev", tmp_path)
    path = tmp_path / "sst-dev-output.csv"
    header, *rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *rows[::-1]]))
    assert read_predictions(tmp_path, "dev", DATASET)["sst"].predicted.tolist() == [4, 0]


HEADER = "id \t Predicted_Sentiment \n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r" is missing; write it with `minbert predict`"),
        ("", r":1: the header must be 'id \\t Predicted_Sentiment \\n', got ''"),
        (b"\xff\xfe", r":1: the header must be "),
        ("id,Predicted_Sentiment\n", r":1: the header must be .*, got 'id,Predicted_Sentiment\\n'"),
        (HEADER.replace("Sentiment", "Similiary"), r":1: the header must be .*Predicted_Similiary"),
        (HEADER.rstrip("\n"), r":1: the header must be "),
        (HEADER + "sst-0 , 4 \nsst-1 , ", r":3: a row must be '<new id> , <number> \\n', got 'sst-1 , '"),
        (HEADER + "sst-0 , 4 \nsst-1 , 0", r":3: a row must be .*, got 'sst-1 , 0'"),
        (HEADER + "sst-0 , 4 \nsst-1 , 0 ", r":3: a row must be .*, got 'sst-1 , 0 '"),
        (HEADER + "sst-0,4\nsst-1,0\n", r":2: a row must be .*, got 'sst-0,4\\n'"),
        (HEADER + "sst-0 , good \n", r":2: a row must be .*, got 'sst-0 , good \\n'"),
        (HEADER + " , 4 \n", r":2: a row must be .*, got ' , 4 \\n'"),
        (HEADER + "sst-0 , 4 \nsst-0 , 4 \n", r":3: a row must be '<new id> "),
        (HEADER + "sst-0 , 4 \n\nsst-1 , 0 \n", r":3: a row must be .*, got '\\n'"),
        (HEADER, r" lacks sst-0; predict with the data set that it is scored on"),
        (HEADER + "sst-0 , 4 \n", r" lacks sst-1; predict with"),
        (HEADER + "sst-0 , 4 \nsst-1 , 0 \nsst-2 , 1 \n", r" has 3 predictions for 2 examples; predict with"),
    ],
)
def test_a_broken_file_is_refused_with_its_name_and_line(tmp_path, content, message):
    write_predictions(predictions(), "dev", tmp_path)
    path = tmp_path / "sst-dev-output.csv"
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}{message}") as caught:
        read_predictions(tmp_path, "dev", DATASET)
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    paths = write_predictions(predictions(), "dev", tmp_path)
    for path in paths:
        content = path.read_bytes()
        for cut in range(len(content)):
            path.write_bytes(content[:cut])
            with pytest.raises(ValueError, match=re.escape(str(path))):
                read_predictions(tmp_path, "dev", DATASET)
        path.write_bytes(content)


def test_a_full_disk_leaves_the_former_files(tmp_path):
    first = write_predictions(predictions(), "dev", tmp_path)
    former = [path.read_bytes() for path in first]
    full = OSError(28, "No space left on device")
    with patch("os.fsync", side_effect=full), pytest.raises(OSError, match="No space left"):
        write_predictions(predictions(predicted={**PREDICTED, "sst": [1, 1]}), "dev", tmp_path)
    assert [path.read_bytes() for path in first] == former
    assert len(list(tmp_path.iterdir())) == 3


def test_ids_and_values_must_match(tmp_path):
    broken = replace(predictions()["sst"], predicted=np.array([1.0]))
    with pytest.raises(ValueError, match=r"shorter|longer"):
        prediction_files.write_predictions({"sst": broken}, "dev", tmp_path)
    assert not list(tmp_path.iterdir())
