"""The embedded corpus: what is drawn and what is written."""

import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from minbert_multitask import corpus, data
from minbert_multitask.tokenizer import Tokenizer

TASKS = ("sst", "qqp", "sts")
SMALL = {task: {"train": 30, "dev": 20, "test": 10} for task in TASKS}


@pytest.fixture(scope="module")
def default():
    return corpus.generate()


def sentences(example):
    return [text for text in (example.sentence1, example.sentence2) if text is not None]


def labels(examples):
    return np.array([example.label for example in examples])


# What is drawn


def test_the_default_corpus_is_this_one_everywhere(default):
    assert default.fingerprint == "0ddcddf0c3d93910"
    program = "from minbert_multitask import corpus; print(corpus.generate().fingerprint)"
    for seed in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", program]
        output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        assert output.strip() == default.fingerprint


def test_only_the_generators_one_stable_method_is_used(monkeypatch, default):
    class Stable(corpus.Random):
        def getrandbits(self, k):  # on which choice, shuffle, sample and randrange rest
            raise AssertionError("the numbers of this method may change with Python")

    monkeypatch.setattr(corpus, "Random", Stable)
    assert corpus.generate().examples == default.examples


def test_the_seed_chooses_the_sentences():
    first, second = (corpus.generate(seed=seed, sizes=SMALL) for seed in (1, 2))
    for task in TASKS:
        assert {e.sentence1 for e in first[task, "train"]} != {e.sentence1 for e in second[task, "train"]}


def test_one_tasks_size_leaves_the_others_rows():
    more = corpus.generate(sizes=SMALL | {"sst": {"train": 31, "dev": 20, "test": 10}})
    fewer = corpus.generate(sizes=SMALL)
    assert all(more[key] == fewer[key] for key in fewer.examples if key[0] != "sst")


def test_the_sizes_are_those_asked_for(default):
    assert {key: len(rows) for key, rows in default.examples.items()} == {
        (task, split): {"train": 600, "dev": 150, "test": 150}[split]
        for task in TASKS
        for split in data.SPLITS
    }
    assert {key: len(rows) for key, rows in corpus.generate(sizes=SMALL).examples.items()} == {
        (task, split): SMALL[task][split] for task in TASKS for split in data.SPLITS
    }


def test_more_rows_than_there_are_sentences_are_refused():
    with pytest.raises(
        ValueError, match=r"^sizes asks for more rows of qqp than the grammar has .*; ask for fewer$"
    ):
        corpus.generate(sizes=SMALL | {"qqp": {"train": 20_000, "dev": 1, "test": 1}})


@pytest.mark.parametrize("task", TASKS)
def test_no_sentence_occurs_twice_in_a_task(default, task):
    """So dev and test have nothing of train, no pair recurs the other way round, no text has two labels."""
    for dataset in (default, corpus.generate(seed=1)):
        rows = [example for split in data.SPLITS for example in dataset[task, split]]
        texts = [text for example in rows for text in sentences(example)]
        assert len(set(texts)) == len(texts)
        assert len({example.id for example in rows}) == len(rows)


def test_ids_look_like_the_handouts(default):
    assert all(re.fullmatch("[0-9a-f]{25}", e.id) for rows in default.examples.values() for e in rows)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_no_constant_prediction_is_right_often(default, split):
    rows = len(default["sst", split])
    assert Counter(labels(default["sst", split])) == dict.fromkeys(range(5), rows / 5)
    assert Counter(labels(default["qqp", split])) == {0: rows / 2, 1: rows / 2}
    similarities = labels(default["sts", split])
    assert set(np.floor(similarities)) == set(range(6))
    assert Counter(similarities)[0] == Counter(similarities)[5] == rows / 10
    assert similarities.std() > 1.2
    assert {example.label for task in TASKS for example in default[task, "test"]} == {None}


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_in_no_order_of_their_labels(default, task):
    values = labels(default[task, "train"])
    for lag in range(1, 11):
        assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 0.2


def test_sentences_are_short_varied_and_known_to_the_encoder(default, minilm):
    tokenizer = Tokenizer.from_pretrained(minilm)
    unknown = tokenizer.vocabulary.index("[UNK]")
    texts = [text for rows in default.examples.values() for e in rows for text in sentences(e)]
    lengths = [len(tokens) for tokens in tokenizer.encode(texts)]
    assert np.mean(np.array(lengths) <= 18) > 0.9
    assert max(lengths) <= 32
    assert not any(unknown in tokens for tokens in tokenizer.encode(texts))
    assert len({word for text in texts for word in re.findall(r"[\w-]+", text.lower())}) > 600
    assert all(text[0].isupper() and text[-1] in ".?" and "  " not in text for text in texts)


# What is written


def test_what_is_written_is_read_back_equal(default, tmp_path):
    assert corpus.write(tmp_path / "new") == tmp_path / "new"
    again = data.load(tmp_path / "new")
    assert again.examples == default.examples
    assert again.fingerprint == default.fingerprint


def test_files_that_are_there_stay_and_missing_ones_come_back(tmp_path):
    corpus.write(tmp_path, sizes=SMALL)
    kept, lost = (data.path_of(tmp_path, task, "dev") for task in ("sst", "sts"))
    content, before = lost.read_bytes(), kept.stat()
    lost.unlink()
    corpus.write(tmp_path, sizes=SMALL)
    assert lost.read_bytes() == content
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_other_data_is_refused_and_not_touched(tmp_path):
    path = data.path_of(tmp_path, "sts", "train")
    path.write_text("somebody's work\n")
    with pytest.raises(ValueError, match=f"^{path} holds other data than this corpus; choose another folder"):
        corpus.write(tmp_path, sizes=SMALL)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["somebody's work\n"]
