"""The handout's files, read, refused and written."""

import csv
import warnings
from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from minbert_multitask import data
from minbert_multitask.data import Dataset, Example

NAMES = {"sst": "ids-sst-dev.csv", "qqp": "quora-dev.csv", "sts": "sts-dev.csv"}
LABELS = {"sst": "sentiment", "qqp": "is_duplicate", "sts": "similarity"}
HEAD = {
    "sst": "\tid\tsentence\tsentiment\n",
    "qqp": "\tid\tsentence1\tsentence2\tis_duplicate\n",
    "sts": "\tid\tsentence1\tsentence2\tsimilarity\n",
}
ROWS = {
    "sst": ("0\ta1\t A fine film .\t3\n", "1\tb2\tNo .\t0\n"),
    "qqp": ('7\tc3\t"Is ""this"" it?"\tIs it?\t1.0\n', "5\td4\tWhy?\tWho?\t0.0\n"),
    "sts": ('2\te5\tA man.\t"A\tman\nsits."\t3.333\n', "3\tf6\tRain.\tSun.\t0.0\n"),
}
SMALL = {task: HEAD[task] + "".join(ROWS[task]) for task in NAMES}


@pytest.fixture
def folder(tmp_path):
    for task, text in SMALL.items():
        (tmp_path / NAMES[task]).write_text(text, encoding="utf-8", newline="")
    return tmp_path


def read(folder):
    return data.load(folder, splits=["dev"])


# What is read


def test_quotes_tabs_newlines_and_leading_spaces_are_kept(folder):
    dataset = read(folder)
    assert dataset["sst", "dev"] == (Example("a1", " A fine film .", None, 3), Example("b2", "No .", None, 0))
    assert dataset["qqp", "dev"][0] == Example("c3", 'Is "this" it?', "Is it?", 1)
    assert dataset["sts", "dev"][0] == Example("e5", "A man.", "A\tman\nsits.", 3.333)


def test_columns_are_found_by_name(folder):
    (folder / NAMES["sst"]).write_text("sentiment\t0\tsentence\t\tid\n3\tx\tA fine film .\t1.0\ta1\n")
    assert read(folder)["sst", "dev"] == (Example("a1", "A fine film .", None, 3),)


def test_line_ends_and_a_byte_order_mark_do_not_matter(folder):
    plain = read(folder)
    for task in ("sst", "qqp"):
        (folder / NAMES[task]).write_bytes(b"\xef\xbb\xbf" + SMALL[task].replace("\n", "\r\n").encode())
    assert read(folder).examples == plain.examples


def test_empty_labels_of_qqp_are_dropped_with_one_warning_that_counts(folder):
    (folder / NAMES["qqp"]).write_text(SMALL["qqp"] + "8\te5\tHow?\tHow so?\t\n9\tf6\tHow?\t\t\n")
    with pytest.warns(UserWarning, match=r"quora-dev.csv: dropped 2 rows with an empty label$") as caught:
        assert [example.id for example in read(folder)["qqp", "dev"]] == ["c3", "d4"]
    assert len(caught) == 1


def test_test_files_have_two_index_columns_and_no_labels(folder):
    for task, header in (
        ("sst", "sentence"),
        ("qqp", "sentence1\tsentence2"),
        ("sts", "sentence1\tsentence2"),
    ):
        texts = header.replace("sentence", "What?")
        path = folder / NAMES[task].replace("dev", "test-student")
        path.write_text(f"0\t\tid\t{header}\n1\t0.0\ta1\t{texts}\n")
    dataset = data.load(folder, splits=["test"])
    assert dataset["sst", "test"] == (Example("a1", "What?", None, None),)
    assert dataset["qqp", "test"] == dataset["sts", "test"] == (Example("a1", "What?1", "What?2", None),)


@pytest.mark.filterwarnings("ignore:.*dropped 2 rows")
def test_the_real_files_are_read_as_the_csv_modules_dict_reader_reads_them(real_data):
    dataset = data.load(real_data)
    files = {"sst": "ids-sst-{}.csv", "qqp": "quora-{}.csv", "sts": "sts-{}.csv"}
    for (task, split), examples in dataset.examples.items():
        name = files[task].format("test-student" if split == "test" else split)
        with (real_data / name).open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file, delimiter="\t") if row.get(LABELS[task]) != ""]
        assert [e.id for e in examples] == [row["id"] for row in rows]
        assert [e.sentence1 for e in examples] == [row.get("sentence1", row.get("sentence")) for row in rows]
        assert [e.sentence2 for e in examples] == [row.get("sentence2") for row in rows]
        labels = [row.get(LABELS[task]) for row in rows]
        assert [e.label for e in examples] == [None if label is None else float(label) for label in labels]
    with pytest.warns(UserWarning, match="quora-train.csv: dropped 2 rows"):
        data.load(real_data, splits=["train"])


# What is refused


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("sst", None, r" is missing; give --data, a folder with the handout's nine files"),
        ("sst", "", r" does not end with a line's end, so it may be truncated"),
        ("sst", HEAD["sst"], r" has no rows"),
        ("sst", HEAD["sst"] + "0\ta1\tGood\t3", r" does not end with a line's end"),
        ("qqp", HEAD["qqp"] + '0\ta1\t"Is it?\tIs it?\t1.0\n', r":2: unexpected end of data; is a quote"),
        ("qqp", HEAD["qqp"] + '0\ta1\t"Is" it?\tIs it?\t1.0\n', r":2: .* expected after .*; is a quote"),
        (
            "sst",
            "\n",
            r":1: the header must name id, sentence, sentiment once each, separated by tabs, got \[\]",
        ),
        (
            "sst",
            HEAD["sst"].replace("\t", ",") + "0,a1,Good,3\n",
            r":1: the header must name .*got \[',id,sentence",
        ),
        (
            "sts",
            HEAD["qqp"] + "0\ta1\tA\tB\t1.0\n",
            r":1: the header must name id, sentence1, sentence2, similarity",
        ),
        ("sst", "id\tid\tsentence\tsentiment\n0\t0\tGood\t3\n", r":1: the header must name .* once each"),
        ("sst", HEAD["sst"] + "0\ta1\tGood\n", r":2: a row must have 4 fields, got 3"),
        ("sst", HEAD["sst"] + "0\ta1\tGood\t3\n\n", r":3: a row must have 4 fields, got 0"),
        ("sst", HEAD["sst"] + "0\ta1\tGood\tfilm\t3\n", r":2: a row must have 4 fields, got 5"),
        ("sst", HEAD["sst"] + "0\ta1\tGood\t\n", r":2: sentiment must be a whole number from 0 to 4, got ''"),
        ("sst", HEAD["sst"] + "0\ta1\tGood\t3\n1\tb2\tBad\t5\n", r":3: sentiment must .* got '5'"),
        ("sst", HEAD["sst"] + "0\ta1\tGood\t-1\n", r":2: sentiment must .* got '-1'"),
        ("sst", HEAD["sst"] + "0\ta1\tGood\t2.5\n", r":2: sentiment must .* got '2.5'"),
        ("sst", HEAD["sst"] + "0\ta1\tGood\tgood\n", r":2: sentiment must .* got 'good'"),
        (
            "qqp",
            HEAD["qqp"] + "0\ta1\tA\tB\t2.0\n",
            r":2: is_duplicate must be a whole number from 0 to 1, got '2.0'",
        ),
        ("qqp", HEAD["qqp"] + "0\ta1\tA\tB\t0.5\n", r":2: is_duplicate must .* got '0.5'"),
        ("sts", HEAD["sts"] + "0\ta1\tA\tB\t\n", r":2: similarity must be a number from 0 to 5, got ''"),
        ("sts", HEAD["sts"] + "0\ta1\tA\tB\t5.1\n", r":2: similarity must .* got '5.1'"),
        ("sts", HEAD["sts"] + "0\ta1\tA\tB\tnan\n", r":2: similarity must .* got 'nan'"),
        ("sts", HEAD["sts"] + "0\ta1\tA\tB\tinf\n", r":2: similarity must .* got 'inf'"),
        (
            "sst",
            HEAD["sst"] + "0\ta1\tA\t1\n1\ta1\tB\t2\n",
            r":3: the id must be unique and not empty, got 'a1'",
        ),
        ("sst", HEAD["sst"] + "0\t\tA\t1\n", r":2: the id must be unique and not empty, got ''"),
        (
            "sst",
            HEAD["sst"].encode() + b"0\ta1\tCaf\xe9\t1\n",
            r":2: not UTF-8 \(.*\); save the file as UTF-8",
        ),
        ("sst", (HEAD["sst"] + "0\ta1\tGood\t1\n").encode("utf-16"), r":1: not UTF-8"),
        ("sst", HEAD["sst"] + f"0\ta1\t{'long' * 40_000}\t1\n", r":2: field larger than field limit"),
    ],
)
def test_a_broken_file_is_refused_with_its_name_and_line(folder, task, content, message):
    path = folder / NAMES[task]
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"^{path}{message}") as caught:
        read(folder)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A folder whose files may be overwritten one at a time."""
    folder = tmp_path_factory.mktemp("data")
    for task, text in SMALL.items():
        (folder / NAMES[task]).write_text(text, encoding="utf-8", newline="")
    return folder


@st.composite
def damaged(draw, text):
    """Bytes that begin as a file and were overwritten, cut and pasted into, or any bytes at all."""
    content = text.encode()
    for _ in range(draw(st.integers(0, 3))):
        start, stop = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        paste = st.one_of(
            st.binary(max_size=4), st.sampled_from([b"\t", b"\n", b'"', b"\r", b"nan", b"1", b"\x00"])
        )
        content = content[:start] + draw(paste) + content[stop:]
    return draw(st.one_of(st.just(content), st.just(content + b"\n"), st.binary(max_size=40)))


@pytest.mark.filterwarnings("ignore:.*dropped")
@pytest.mark.parametrize("task", list(NAMES))
@given(draw=st.data())
def test_any_bytes_are_a_dataset_or_one_line(others, task, draw):
    path = others / NAMES[task]
    path.write_bytes(draw.draw(damaged(SMALL[task])))
    try:
        result = read(others)
    except ValueError as error:
        result = str(error)
    finally:
        path.write_bytes(SMALL[task].encode())
    if isinstance(result, str):
        assert result.startswith(str(path))
        assert "\n" not in result
    else:
        highest = {"sst": 4, "qqp": 1, "sts": 5}[task]
        assert result[task, "dev"]
        assert all(0 <= example.label <= highest for example in result[task, "dev"])


@pytest.mark.parametrize("task", list(NAMES))
def test_a_file_cut_anywhere_within_a_line_is_refused(others, task):
    path, content = others / NAMES[task], SMALL[task].encode()
    after_the_first_row = len(HEAD[task] + ROWS[task][0])
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        if cut == after_the_first_row:
            assert len(read(others)[task, "dev"]) == 1
        else:
            with pytest.raises(ValueError, match=str(path)):
                read(others)
    path.write_bytes(content)


# What is written

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)


@st.composite
def datasets(draw):
    labels = {"sst": st.integers(0, 4), "qqp": st.integers(0, 1), "sts": st.floats(0, 5)}
    examples = {}
    for task, label in labels.items():
        for split in data.SPLITS:
            ids = draw(st.lists(TEXT.filter(bool), min_size=1, max_size=3, unique=True))
            examples[task, split] = tuple(
                Example(
                    name,
                    draw(TEXT),
                    None if task == "sst" else draw(TEXT),
                    None if split == "test" else draw(label),
                )
                for name in ids
            )
    return Dataset(examples)


@given(dataset=datasets())
def test_what_is_written_is_read_back_equal(tmp_path_factory, dataset):
    folder = tmp_path_factory.getbasetemp() / "written"
    with patch("os.fsync"):  # which takes nine tenths of the time
        data.write(dataset, folder)
    again = data.load(folder)
    assert again.examples == dataset.examples
    assert again.fingerprint == dataset.fingerprint
    with (folder / "quora-train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["id"], row["sentence1"], row["sentence2"], float(row["is_duplicate"])) for row in rows] == [
        (e.id, e.sentence1, e.sentence2, e.label) for e in dataset["qqp", "train"]
    ]


def test_the_real_files_are_written_as_they_were(real_data, tmp_path):
    """Byte for byte, but for the index column and the two rows that are dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.write(data.load(real_data), tmp_path)
    for path in sorted(tmp_path.iterdir()):
        indices = 2 if path.name == "ids-sst-test-student.csv" else 1
        lines = (real_data / path.name).read_bytes().splitlines()
        labelled = [line for line in lines if path.name != "quora-train.csv" or not line.endswith(b"\t")]
        theirs = [line.split(b"\t", indices)[indices] for line in labelled]
        assert [line.split(b"\t", 1)[1] for line in path.read_bytes().splitlines()] == theirs


@given(dataset=datasets(), draw=st.data())
def test_the_fingerprint_sees_every_field(dataset, draw):
    key = draw.draw(st.sampled_from(sorted(dataset.examples)))
    place = draw.draw(st.integers(0, len(dataset[key]) - 1))
    example = dataset[key][place]
    changes = {"id": example.id + "x", "sentence1": example.sentence1 + "x"}
    if example.sentence2 is not None:
        changes["sentence2"] = example.sentence2 + "x"
    if example.label is not None:
        changes["label"] = 0 if example.label else 1
    field = draw.draw(st.sampled_from(sorted(changes)))
    changed = list(dataset[key])
    changed[place] = replace(example, **{field: changes[field]})
    other = Dataset({**dataset.examples, key: tuple(changed)})
    assert other.fingerprint != dataset.fingerprint
    assert Dataset(dict(reversed(dataset.examples.items()))).fingerprint == dataset.fingerprint


def test_an_example_without_its_label_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="example 'a' of sts train must have a label, got None"):
        data.write(Dataset({("sts", "train"): (Example("a", "b", "c", None),)}), tmp_path)
    assert not list(tmp_path.iterdir())
